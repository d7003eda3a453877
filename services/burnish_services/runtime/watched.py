"""Files that are read anew when they change, so that what is in them can be renewed without a restart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")
Stamp = tuple[tuple[int, int, int], ...]

_AGAIN_SECONDS = 3600.0  # after which what could not be read is tried, and complained of, once more


class Watched(Generic[ValueT]):
    """What `read` makes of files. Where they change into something that cannot be read, the last good value stays, and
    the log says so, every hour for as long as somebody asks: else what ends months later, such as a certificate, would
    have been said once. `read` raises OSError or ValueError; the first time, so does this. Safe to use in several
    threads.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], ValueT]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._tried = self._stamp()
        self._failed: float | None = None  # when that could not be read, by the monotonic clock
        self._value = read()

    def value(self) -> ValueT:
        """The newest good value. Costs a look at each file's date, and reading where one has changed."""
        return self.changed()[0]

    def changed(self) -> tuple[ValueT, bool]:
        """The newest good value, and whether it is another than the last call had."""
        with self._lock:
            try:
                stamp = self._stamp()
            except OSError:  # in the midst of being replaced
                return self._value, False
            if stamp == self._tried and not self._is_due():
                return self._value, False
            self._tried = stamp
            try:
                self._value = self._read()
            except (OSError, ValueError) as error:
                self._failed = time.monotonic()
                log.error("a file changed and cannot be used; what it was before stays in force: %s", error)
                return self._value, False
            self._failed = None
            log.info("read anew", extra={"files": ",".join(map(str, self._paths))})
            return self._value, True

    def _is_due(self) -> bool:
        """Whether what could not be read is to be tried again: it may be readable now, and its date the same."""
        return self._failed is not None and time.monotonic() - self._failed >= _AGAIN_SECONDS

    def _stamp(self) -> Stamp:
        found = (path.stat() for path in self._paths)
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
