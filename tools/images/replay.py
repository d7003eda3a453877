"""Executes what the Dockerfile would, without a container engine: its very RUN and COPY lines, in a folder.

Paths of the image lie below that folder, `/opt/burnish` as FOLDER/opt/burnish; what Debian's tools do (apt-get, users)
is left out, since this machine's own Python stands in for the base image. pip asks the indexes that this machine asks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.images.recipe import ROOT, UID, Recipe, Step

# What the replay moves below its folder. /tmp and /runs: what the image has as directories.
_PLACES = re.compile(r"(?<![\w/.-])/(opt|src|state|runs)(?=[/:\s'\"]|$)")
_OF_DEBIAN = re.compile(r"^(if .*; then )?(apt-get|rm -rf /var/lib/apt\S*|groupadd|useradd|install) ?")


class Replay:
    """A folder with what one target's image would have of Burnish."""

    def __init__(self, recipe: Recipe, target: str, folder: Path) -> None:
        self.recipe = recipe
        self.target = target
        self.folder = folder
        self.python = _python()
        self._kept = folder / "stages"

    def path(self, place: str) -> Path:
        """Where something of the image lies, such as /opt/burnish."""
        return Path(self.mapped(place))

    def mapped(self, text: str) -> str:
        """A text with the image's paths replaced by the folder's."""
        return _PLACES.sub(lambda found: f"{self.folder}/{found[1]}", text)

    def make(self) -> None:
        """Executes all that the target needs. Raises CalledProcessError where a line fails."""
        for name in self._needed(self.target):
            stage = self.recipe.stages[name]
            shutil.rmtree(self.folder / "opt", ignore_errors=True)
            shutil.rmtree(self.folder / "src", ignore_errors=True)
            if (self._kept / stage.parent).is_dir():
                shutil.copytree(self._kept / stage.parent, self.folder, True, copy_function=_link, dirs_exist_ok=True)
            for step in stage.steps:
                self._execute(step)
            if name != self.target:
                self._keep(name)
        shutil.rmtree(self._kept, ignore_errors=True)
        for place in ("state/home", "runs", "tmp"):
            (self.folder / place).mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """What the image's process would see, and no more."""
        env = {name: self.mapped(value) for name, value in self.recipe.image(self.target).env.items()}
        return env | {"TMPDIR": str(self.folder / "tmp"), "LANG": "C.UTF-8"}

    def _needed(self, name: str) -> Iterator[str]:
        """The stages to make, each after those that it stands on or copies from; each once."""
        order: dict[str, None] = {}  # a set that keeps its order

        def visit(name: str) -> None:
            for stage in self.recipe.lineage(name):
                for other in self.recipe.copied_from(stage):
                    visit(other)
                order[stage.name] = None

        visit(name)
        return iter(order)

    def _keep(self, name: str) -> None:
        for place in ("opt", "src"):
            if (self.folder / place).is_dir():
                target = self._kept / name / place
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(self.folder / place, target, symlinks=True, copy_function=_link)

    def _execute(self, step: Step) -> None:
        if step.command == "WORKDIR":
            self.path(step.words[0]).mkdir(parents=True, exist_ok=True)
        elif step.command == "COPY":
            *sources, target = step.words
            others = [flag.removeprefix("--from=") for flag in step.flags if flag.startswith("--from=")]
            for source in sources:
                self._copy(self._kept / others[0] / source[1:] if others else ROOT / source, source, target)
        elif step.command == "RUN":
            self._run(step)

    def _copy(self, source: Path, name: str, target: str) -> None:
        into = self.path(target) if target.startswith("/") else self.folder / "src" / target
        if source.is_dir():
            copy = _link if source.is_relative_to(self._kept) else shutil.copy2
            shutil.copytree(source, into, symlinks=True, copy_function=copy, dirs_exist_ok=True)
        else:
            into = into / Path(name).name if target.endswith("/") else into
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into)

    def _run(self, step: Step) -> None:
        (line,) = step.words
        for part in re.split(r"\s+&&\s+", line):
            if _OF_DEBIAN.match(part):
                continue
            command = re.sub(r"^python3\b", str(self.python), self.mapped(part))
            where = self.folder / "src"
            where = where if where.is_dir() else self.folder
            subprocess.run(command, shell=True, check=True, cwd=where, stdout=sys.stderr)  # noqa: S602


def _link(source: str, target: str) -> None:
    """One more name of a file instead of a copy: gigabytes are installed, and nothing here writes into a file."""
    Path(target).unlink(missing_ok=True)
    os.link(source, target)


def _python() -> Path:
    """A Python 3.11, for which the locks are: Debian's own, which any user may run, before the one that runs this."""
    for candidate in (Path("/usr/bin/python3.11"), Path(sys.executable)):
        asked = [candidate, "-c", "import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))"]
        if candidate.exists() and not subprocess.run(asked, capture_output=True, check=False).returncode:
            return candidate
    raise LookupError("no Python 3.11 with venv here, for which the images' locks are made")


def confined(replay: Replay, command: list[str]) -> list[str]:
    """A command that runs as in a container as far as this machine can: where this is root, every file system that is
    mounted at / read-only but for the writable places, no capability, and the image's user."""
    if os.geteuid() != 0:
        return command
    writable = [str(replay.folder / place) for place in ("state", "runs", "tmp")]
    for place in writable:
        subprocess.run(["chown", "-R", f"{UID}:{UID}", place], check=True)  # noqa: S607
    mounts = "".join(f"mount --bind '{place}' '{place}' && " for place in writable)
    setpriv = f"setpriv --reuid={UID} --regid={UID} --clear-groups --no-new-privs --bounding-set=-all"
    script = f'{mounts}mount -o remount,bind,ro / && exec {setpriv} "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
