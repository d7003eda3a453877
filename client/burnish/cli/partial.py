"""What a command has of its lines so far, in a file beside its output: it may be killed at any moment, and goes on.

The file's first line names what all others are made of; the same command adds what is missing, and another one is
refused. A line that a kill tore is dropped. One process at a time holds the file.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from burnish.coordinator.atomic import FULL, disk_full, writing_whole
from burnish.coordinator.content import as_json
from burnish.coordinator.errors import CoordinatorError


def partial_path(out: Path) -> Path:
    """Where the lines of `out` are kept until it is whole. Not `.NAME.part`, which is `writing_whole`'s."""
    return out.with_name(f".{out.name}.partial")


def check_free(out: Path | None) -> None:
    """Raises CoordinatorError where another process writes to `out` now, before services are started for nothing."""
    if out is not None and partial_path(out).exists():
        _taken(partial_path(out), out).close()


@contextmanager
def partial(out: Path, made_of: str) -> Iterator[Partial]:
    """What is kept for `out` and made of the same, a digest. It stays after an exception, which then says so. Raises
    CoordinatorError where another process has it or it is made of something else, DiskFull."""
    kept: Partial | None = None
    try:
        with _taken(partial_path(out), out) as stream:
            found = Partial(out, stream, made_of)
            if found.is_foreign:
                raise CoordinatorError(
                    f"{partial_path(out)} keeps results for {out} that are of other data, options, model or release."
                    " Give the command as it was, to go on with them; remove that file, to begin anew; or give another"
                    " --out."
                )
            kept = found
            try:
                yield kept
            finally:
                if kept.is_over:
                    partial_path(out).unlink(missing_ok=True)
    except BaseException as error:
        said = disk_full(out, error) if isinstance(error, OSError) and error.errno in FULL else error
        if kept is not None and kept.ids:
            said.add_note(f"{len(kept.ids)} results are kept; the same command goes on from there.")
        if said is error:
            raise
        raise said from error


class Partial:
    """Lines by the id of their sample; of several for one id the last counts. `errors`: by id, those of lines with one.
    `is_foreign`: the file has another command's lines."""

    def __init__(self, out: Path, stream: IO[bytes], made_of: str) -> None:
        self.errors: dict[str, Mapping[str, Any]] = {}
        self._out = out
        self._stream = stream
        self._header = _bytes({"made_of": made_of})
        self._places: dict[str, int] = {}  # id -> where its line begins, in bytes
        self._end = 0  # of what is whole, in bytes; 0: not even the first line is
        self._finished = False
        self.is_foreign = self._read()

    @property
    def ids(self) -> Collection[str]:
        """Those that have a line."""
        return self._places.keys()

    @property
    def is_over(self) -> bool:
        """Whether nobody will need the file."""
        return self._finished or not self.ids

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keeps lines, each with an `id`: once this returns, no kill of the process loses them."""
        written = [_bytes(line) for line in lines]
        self._stream.truncate(self._end)
        first = b"" if self._end else self._header
        self._stream.write(first + b"".join(written))
        self._stream.flush()
        self._end += len(first)
        for line, text in zip(lines, written, strict=True):
            self._note(line, text)

    def become(self, ids: Sequence[str], *, finished: bool) -> None:
        """Writes the output whole, the line of each of `ids` in this order. The lines are kept all the same unless
        that is `finished`."""
        with writing_whole(self._out) as whole:
            for name in ids:
                self._stream.seek(self._places[name])
                whole.write(self._stream.readline())
        self._finished = finished

    def _read(self) -> bool:
        """Finds the lines; says whether there are only another command's."""
        self._stream.seek(0)
        first = self._stream.readline()
        if first != self._header:
            return first.endswith(b"\n")
        self._end = len(first)
        for text in self._stream:
            line = _whole(text)
            if line is None:  # and what a machine that stopped left behind it is worth no more
                break
            self._note(line, text)
        return False

    def _note(self, line: Mapping[str, Any], text: bytes) -> None:
        name = line["id"]
        self._places[name] = self._end
        self._end += len(text)
        self.errors.pop(name, None)
        if "error" in line:
            self.errors[name] = line["error"]


def _taken(path: Path, out: Path) -> IO[bytes]:
    """The file at `path`, made where it is missing, for this process alone; the kernel lets go of it when that dies."""
    while True:
        stream = path.open("a+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise CoordinatorError(
                f"{out} is being written by another command. Wait until that has ended, or give another --out."
            ) from None
        except OSError as error:
            stream.close()
            raise CoordinatorError(
                f"{out} cannot be written safely: files there cannot be locked ({error.strerror or error}). Give an"
                " --out on another file system, or let the command write to standard output."
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()  # whoever had it was done with it just now, and has removed it


def _bytes(line: Mapping[str, Any]) -> bytes:
    return as_json(line).encode() + b"\n"


def _whole(text: bytes) -> dict[str, Any] | None:
    """The line that the bytes are; None where they are not all of one."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if text.endswith(b"\n") and isinstance(line, dict) and "id" in line else None
