"""A run's events on disk: an append-only file of numbered snapshots, the one truth about the run.

Owns the file's format, what a crash may leave of it, and reading along while it grows. Knows nothing of what the
snapshots mean.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from burnish_services.training.state import Snapshot

log = logging.getLogger(__name__)

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Event:
    """The run as it was at `time` (seconds since the epoch); numbers count from 1 without gaps."""

    number: int
    time: float
    snapshot: Snapshot


_EVENT = TypeAdapter(Event)


class EventLog:
    """Events of one run; written by the server only, from one thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file at `path`, or begins it. What a crash left half-written at its end is cut off.
        Raises ValueError where what stands before that is no event, OSError where it cannot be read."""
        self.path = path
        # Events that could not be written yet, because the disk is full, say; the next append or `flush` tries again.
        self._unwritten: list[Event] = []
        self._size, self.last = _recover(path)

    def append(self, snapshot: Snapshot, time: float, *, durable: bool) -> Event:
        """Adds the next event; `durable` waits for the disk. A disk that takes nothing costs no event: it is kept in
        memory until the disk does."""
        number = 1 if self.last is None else self.last.number + 1
        self.last = Event(number, time, snapshot)
        self._unwritten.append(self.last)
        self.flush(durable=durable)
        return self.last

    def flush(self, *, durable: bool = True) -> bool:
        """Writes what could not be written yet; whether there is nothing left of it."""
        if not self._unwritten:
            return True
        lines = b"".join(_EVENT.dump_json(event) + b"\n" for event in self._unwritten)
        try:
            self._write(lines, durable)
        except OSError as error:
            log.error("events of %s cannot be written, keeping them in memory: %s", self.path.parent.name, error)
            return False
        self._unwritten.clear()
        return True

    def _write(self, lines: bytes, durable: bool) -> None:
        with self.path.open("ab") as file:
            # Whatever an earlier failure left behind the last whole event.
            file.truncate(self._size)
            file.write(lines)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        self._size += len(lines)

    def read_along(self, from_number: int) -> EventReader:
        """A reader whose first event is `from_number` (>= 1)."""
        return EventReader(self, from_number)

    def unwritten_from(self, number: int) -> list[Event]:
        """Events from `number` on that are only in memory."""
        return [event for event in self._unwritten if event.number >= number]


class EventReader:
    """Reads events in order while the log grows. Close it."""

    def __init__(self, events: EventLog, from_number: int) -> None:
        self._events = events
        self._next = from_number
        self._file: IO[bytes] | None = None

    def read(self, limit: int) -> list[Event]:
        """The next events that are there, at most `limit`; empty where there are none yet."""
        if self._events.last is None or self._events.last.number < self._next:
            return []
        found = self._read_file(limit)
        following = found[-1].number + 1 if found else self._next
        in_memory = self._events.unwritten_from(following)
        if in_memory and in_memory[0].number == following:  # else there is more in the file first
            found += in_memory
        elif not found:  # what was in memory only has been written since the file was read
            found = self._read_file(limit)
        self._next = found[-1].number + 1 if found else self._next
        return found

    def _read_file(self, limit: int) -> list[Event]:
        if self._file is None:
            self._file = self._events.path.open("rb")
        found: list[Event] = []
        while len(found) < limit:
            start = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(start)  # being written
                break
            event = _EVENT.validate_json(line)
            if event.number >= self._next:
                found.append(event)
        return found

    def close(self) -> None:
        """Gives up the file."""
        if self._file is not None:
            self._file.close()


def _recover(path: Path) -> tuple[int, Event | None]:
    """Bytes of whole events in the file, and the last of them."""
    if not path.exists():
        return 0, None
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        reach = _TAIL_BYTES
        while True:
            begin = max(0, size - reach)
            file.seek(begin)
            tail = file.read(size - begin)
            whole = tail[: tail.rfind(b"\n") + 1]
            start = whole.rfind(b"\n", 0, -1) + 1
            # A line is only known to be whole where what stands before it was seen.
            if start > 0 or begin == 0:
                break
            reach *= 8
    if not whole:
        return 0, None
    try:
        return begin + len(whole), _EVENT.validate_json(whole[start:])
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: its last line is no event ({error.error_count()} problems)") from error
