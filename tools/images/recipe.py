"""What deploy/docker/Dockerfile says, read by BuildKit's own parser: stages, and what an image has in the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dockerfile

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
ROLES = ("scoring", "embedding", "rewriting", "training")
TARGETS = (*ROLES, "sdk")
UID = 10001


@dataclass(frozen=True)
class Step:
    """One instruction, with build arguments filled in."""

    command: str  # RUN, COPY, …
    words: tuple[str, ...]
    flags: tuple[str, ...]
    is_json: bool  # the exec form
    line: int


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    parent: str
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    """What a target has, inherited included."""

    env: Mapping[str, str]
    user: str
    entrypoint: Step
    workdir: str
    stop_signal: str
    labels: Mapping[str, str]
    ports: tuple[str, ...]


class Recipe:
    """The Dockerfile for one set of build arguments, such as BASE and DEVICE."""

    def __init__(self, arguments: Mapping[str, str], path: Path = DOCKERFILE) -> None:
        self.stages: dict[str, Stage] = {}
        known = dict(arguments)
        for command in dockerfile.parse_file(str(path)):
            if command.cmd.upper() == "ARG":
                name, _, default = command.value[0].partition("=")
                known.setdefault(name, default)
                continue
            words = tuple(_filled(word, known) for word in command.value)
            if command.cmd.upper() == "FROM":
                stage = Stage(words[-1], words[0])
                self.stages[stage.name] = stage
                continue
            step = Step(command.cmd.upper(), words, tuple(command.flags), command.json, command.start_line)
            stage.steps.append(step)

    def lineage(self, target: str) -> list[Stage]:
        """The stages that `target` is made of, the oldest first; its base image is not among them."""
        stage = self.stages[target]
        older = self.lineage(stage.parent) if stage.parent in self.stages else []
        return [*older, stage]

    def copied_from(self, stage: Stage) -> list[str]:
        """The other stages that a stage takes files of."""
        return [flag.removeprefix("--from=") for step in stage.steps for flag in step.flags if "--from=" in flag]

    def image(self, target: str) -> Image:
        """What the image of `target` is set up as."""
        steps = [step for stage in self.lineage(target) for step in stage.steps]
        found = {step.command: step for step in steps}  # the last one of each counts
        return Image(
            env=dict(_pairs(steps, "ENV")),
            user=found["USER"].words[0] if "USER" in found else "",
            entrypoint=found["ENTRYPOINT"],
            workdir=found["WORKDIR"].words[0],
            stop_signal=found["STOPSIGNAL"].words[0],
            labels=dict(_pairs(steps, "LABEL")),
            ports=tuple(port for step in steps if step.command == "EXPOSE" for port in step.words),
        )


def _filled(word: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], found[0]), word)


def _pairs(steps: list[Step], command: str) -> Iterator[tuple[str, str]]:
    for step in steps:
        if step.command == command:
            for name, value in zip(step.words[::2], step.words[1::2], strict=True):
                yield name, value.strip('"')
