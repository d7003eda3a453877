"""What a worker tells its server: one JSON object a line on the pipe that was its standard output."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from burnish_services.training.state import Failure, Pause, Progress, Result


@dataclass(frozen=True, slots=True)
class Met:
    """All processes of the run were started, on all machines; what several say first."""

    kind: Literal["met"] = "met"


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step was done, or something was measured."""

    progress: Progress
    kind: Literal["progressed"] = "progressed"


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """Everything up to `step` is safe on disk."""

    step: int
    kind: Literal["checkpointed"] = "checkpointed"


@dataclass(frozen=True, slots=True)
class Done:
    """The model is published."""

    result: Result
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """The run can't succeed; trying again would fail again."""

    failure: Failure
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Paused:
    """The run waits for new responses; its checkpoint is written, and the model as it is."""

    pause: Pause
    kind: Literal["paused"] = "paused"


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker was asked to stop, wrote what it could, and ends."""

    kind: Literal["stopped"] = "stopped"


Message = Met | Progressed | Checkpointed | Done | Failed | Paused | Stopped
LAST = (Done, Failed, Paused, Stopped)  # after which there is no other
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def decode(line: bytes) -> Message:
    """The message in a line. Raises pydantic.ValidationError."""
    return _MESSAGE.validate_json(line)


class Reporter:
    """The worker's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, message: Message) -> None:
        """Tells the server. Raises BrokenPipeError where it is gone."""
        left = memoryview(_MESSAGE.dump_json(message) + b"\n")
        while left:
            left = left[os.write(self._descriptor, left) :]
