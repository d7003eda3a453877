"""What the machines of a training service on several of them tell each other: files that all of them see.

    STATE/training/nodes/
      attempt.json   by the leader: the attempt at a run that it makes, and who takes part; gone once that is over
      node-K.json    by follower K: which process it is, what it works on, how its last attempt went; gone when it stops

Each file has one writer, which replaces it whole and counts its `beat` up as long as it lives. Whether it does is
judged by whether that changes, on the reader's own clock: clocks of different machines are never compared. Nothing here
need survive a crash, so nothing waits for the disk.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from burnish_services.runtime.files import write_whole

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 20
_FOLDER = "nodes"

FileT = TypeVar("FileT")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How the server wants workers to work, on whichever machine they are."""

    threads: int = 1
    checkpoint_seconds: float = 600.0
    fake_step_seconds: float = 0.002
    more: tuple[str, ...] = ()  # arguments of the worker's that hold on all machines


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a run by several machines. `members` has the `session` of each follower that takes part."""

    attempt: str  # an id that no other has
    beat: int
    run: str
    endpoint: str  # HOST:PORT where the leader's torchrun listens
    nodes: int
    processes: int  # on each of them
    members: dict[int, str]
    options: WorkerOptions
    rendezvous_seconds: float  # that they wait for each other


@dataclass(frozen=True, slots=True)
class Presence:
    """A follower. `session` is made anew whenever it starts."""

    node: int
    session: str
    beat: int
    host: str
    version: str
    folder: str  # where it sees STATE/training
    at_work: str = ""  # id of the attempt it takes part in
    ended: str = ""  # … of the last one that it took part in
    outcome: str = ""  # how its part of that failed, in words; empty where it did not


_ATTEMPT = TypeAdapter(Attempt)
_PRESENCE = TypeAdapter(Presence)


@dataclass(frozen=True, slots=True)
class Board:
    """The files below one STATE/training. What reads or writes raises OSError; what reads gives None where there is
    nothing, or nothing that this version understands."""

    folder: Path

    def prepare(self) -> None:
        """Makes the folder."""
        (self.folder / _FOLDER).mkdir(parents=True, exist_ok=True)

    def read_attempt(self) -> Attempt | None:
        """What the leader works on."""
        return _read(self._attempt, _ATTEMPT)

    def write_attempt(self, attempt: Attempt) -> None:
        """Announces or renews an attempt."""
        write_whole(self._attempt, _ATTEMPT.dump_json(attempt), durable=False)

    def remove_attempt(self) -> None:
        """Ends whatever attempt there is."""
        self._attempt.unlink(missing_ok=True)

    def read_presence(self, node: int) -> Presence | None:
        """What follower `node` says of itself."""
        return _read(self._presence(node), _PRESENCE)

    def write_presence(self, presence: Presence) -> None:
        """Says that a follower is there."""
        write_whole(self._presence(presence.node), _PRESENCE.dump_json(presence), durable=False)

    def remove_presence(self, node: int) -> None:
        """Says that it is there no more."""
        self._presence(node).unlink(missing_ok=True)

    @property
    def _attempt(self) -> Path:
        return self.folder / _FOLDER / "attempt.json"

    def _presence(self, node: int) -> Path:
        return self.folder / _FOLDER / f"node-{node}.json"


class Pulse:
    """Whether the writer of a file still lives. One that was never seen to change does not: it may be a dead one's."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease_seconds
        self._clock = clock
        self._seen: object = None
        self._changed: float | None = None

    def beats(self, seen: object) -> bool:
        """Whether what was `seen` last has changed within the lease; None: there was nothing to see."""
        if seen is not None and self._seen not in (None, seen):
            self._changed = self._clock()
        self._seen = self._seen if seen is None else seen
        return self._changed is not None and self._clock() - self._changed < self._lease


def _read(path: Path, adapter: TypeAdapter[FileT]) -> FileT | None:
    try:
        return adapter.validate_json(_content(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s is not as this release writes it and is passed over (%d problems)", path, error.error_count())
        return None


def _content(path: Path) -> bytes:
    """Of a file that may be replaced meanwhile, for which a network file system has an error of its own."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return path.read_bytes()
