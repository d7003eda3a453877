"""Where tables lie: in a directory of this machine, or in object storage (S3 and its like). Here is what differs
between the two; what they have in common is in `tables.py`.

Knows no LanceDB: whoever makes a storage passes the way to connect to a database in.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from burnish_services.runtime.directory_lock import DirectoryLock
from burnish_services.runtime.files import sync_path

# Connects to the database at a path or URI, with these options of LanceDB's for object stores.
Connect = Callable[[str, dict[str, str] | None], Any]

_OBJECT_STORES = ("s3", "gs", "az")  # those whose commits are atomic, a conditional put

_MEASURED_EVERY = 60.0  # seconds

# For the first look only. As it comes, LanceDB asks 24 times to connect, and waits 30 s for each answer. Six times
# are left here, which no option changes.
_IMPATIENT = {"timeout": "4s", "connect_timeout": "4s", "client_max_retries": "0"}

# What a deleted table is replaced with. Its metadata alone tells it from a table that is empty.
_DELETED_KEY = b"burnish.deleted"
_DELETED = pa.schema([pa.field("id", pa.string())], metadata={_DELETED_KEY: b"1"})


class StoreUnavailable(RuntimeError):
    """Tables cannot be kept at that place; the message says why, and what to do."""


class Storage(Protocol):
    """A place for tables, each of one name."""

    uri: str  # for people
    database: Any  # LanceDB's
    is_exclusive: bool  # whether nobody else can be writing here
    found: list[str]  # names of the tables that were there at the start

    def listed(self) -> list[str]:
        """Names of all tables, and perhaps of what is left of some."""

    def open(self, name: str) -> Any | None:
        """The table as it is now, or None where there is none."""

    def clear(self, name: str) -> None:
        """Removes what a killed process left where there is no table."""

    def delete(self, name: str) -> None:
        """Removes the table, in one step for whoever opens it; nothing happens where there is none."""

    def durably(self, name: str) -> AbstractContextManager[None]:
        """What is written inside to the table is durable afterwards."""

    def stored_bytes(self) -> int | None:
        """Bytes of all files, perhaps of a minute ago; None where asking would cost requests. From any thread."""

    def close(self) -> None:
        """Lets others have the place; safe to call twice."""


def storage_at(place: Path | str, connect: Connect) -> Storage:
    """A directory, given as a path or file:// URI, or s3://, gs:// or az:// with a bucket and a prefix. Raises
    StoreUnavailable where that cannot be used, and DirectoryLocked where another process has the directory open."""
    if isinstance(place, Path):
        return LocalDirectory(place, connect)
    parts = urlsplit(place)
    if not parts.scheme:
        return LocalDirectory(Path(place), connect)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return LocalDirectory(Path(unquote(parts.path)), connect)
    if parts.scheme in _OBJECT_STORES and parts.netloc:
        return ObjectStore(place.rstrip("/"), connect)
    raise StoreUnavailable(
        f"vectors cannot be kept at {place!r}; expected a directory, file:///DIRECTORY, s3://BUCKET/PREFIX, "
        "gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; change BURNISH_EMBEDDING_STORE_URI"
    )


class LocalDirectory:
    """A directory of this machine, locked for this process. Every table is a directory NAME.lance in it."""

    is_exclusive = True

    def __init__(self, directory: Path, connect: Connect) -> None:
        self.uri = str(directory)
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(directory, "the vector store")
        except OSError as error:
            raise StoreUnavailable(
                f"the vector store in {directory} cannot be opened: {error}; expected a directory that this server "
                "may write to, or a place where it may make one; change BURNISH_EMBEDDING_STORE_URI or --state-dir"
            ) from error
        for path in directory.glob(".deleted-*"):
            shutil.rmtree(path)
        for name in self.listed():
            self.clear(name)
        self.found = self.listed()
        self._measured = (-math.inf, 0)  # when, by the monotonic clock, and bytes
        self.database = connect(str(directory), None)

    def listed(self) -> list[str]:
        """See Storage."""
        return [path.stem for path in self._directory.glob("*.lance")]

    def open(self, name: str) -> Any | None:
        """See Storage."""
        return self.database.open_table(name) if _is_table(self._path(name)) else None

    def clear(self, name: str) -> None:
        """See Storage."""
        path = self._path(name)
        if path.exists() and not _is_table(path):
            shutil.rmtree(path)

    def delete(self, name: str) -> None:
        """See Storage."""
        path = self._path(name)
        if path.exists():
            # Renamed first: a table of which only a part is deleted would look like one that is there.
            doomed = self._directory / f".deleted-{time.time_ns()}"
            path.rename(doomed)
            sync_path(self._directory)
            shutil.rmtree(doomed)

    @contextmanager
    def durably(self, name: str) -> Iterator[None]:
        """See Storage. Has the system write out the new files; Lance leaves that to chance."""
        known = self._files(name)
        yield
        self._make_durable(name, known)

    def stored_bytes(self) -> int:
        """See Storage."""
        # Thousands of files take tenths of a second to look at, and some ask every few seconds.
        if time.monotonic() - self._measured[0] > _MEASURED_EVERY:
            self._measured = (time.monotonic(), _bytes_in(self._directory))
        return self._measured[1]

    def close(self) -> None:
        """See Storage."""
        self._lock.release()

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.lance"

    def _files(self, name: str) -> set[tuple[str, str]]:
        """Directory and name of the table's files, which are written once and never changed (but for a hint that may
        be lost)."""
        return {(directory, file) for directory, _, files in os.walk(self._path(name)) for file in files}

    def _make_durable(self, name: str, known: set[tuple[str, str]]) -> None:
        new = self._files(name) - known
        directories = {Path(directory) for directory, _ in new} | {self._path(name), self._directory}
        for path in [*(Path(directory, file) for directory, file in new), *directories]:
            sync_path(path)


class ObjectStore:
    """A prefix in object storage. What is put there is durable once the store has answered, and a commit is one put
    that the store refuses where that version exists. There is no lock: that another server writes to the same prefix
    is found out when a table is opened (`tables.py`)."""

    is_exclusive = False

    def __init__(self, uri: str, connect: Connect) -> None:
        """Takes half a minute at most to find that the store does not answer, and a request or two for each table."""
        self.uri = uri
        try:
            connect(uri, _IMPATIENT)
            # Without options: with them, LanceDB makes itself a new client for each table that it opens.
            self.database = connect(uri, None)
            for name in self.listed():
                self.clear(name)
            self.found = self.listed()
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreUnavailable(_complaint(uri, error)) from error

    def listed(self) -> list[str]:
        """See Storage."""
        page = self.database.list_tables()
        names = list(page.tables)
        while page.page_token:
            page = self.database.list_tables(page_token=page.page_token)
            names += page.tables
        return names

    def open(self, name: str) -> Any | None:
        """See Storage."""
        table = self._open(name)
        return None if table is None or _is_deleted(table) else table

    def clear(self, name: str) -> None:
        """See Storage. A table whose creation was cut off stays: it is small, seen by nobody and in nobody's way, and
        perhaps not cut off but being made by another server."""
        table = self._open(name)
        if table is not None and _is_deleted(table):
            self._remove(name, table)

    def delete(self, name: str) -> None:
        """See Storage."""
        # Nothing can be renamed here, so that the one step is a commit.
        if self.open(name) is not None:
            self._remove(name, self.database.create_table(name, schema=_DELETED, mode="overwrite"))

    def durably(self, name: str) -> AbstractContextManager[None]:
        """See Storage."""
        return nullcontext()

    def stored_bytes(self) -> None:
        """See Storage."""

    def close(self) -> None:
        """See Storage."""

    def _open(self, name: str) -> Any | None:
        try:
            return self.database.open_table(name)
        except ValueError as error:  # LanceDB has no type of its own for this one
            if "was not found" in str(error):
                return None
            raise

    def _remove(self, name: str, deleted: Any) -> None:
        # The versions before the last one go first. The other way round, a process killed in between would bring the
        # table back as it was before.
        deleted.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
        self.database.drop_table(name)


def _is_table(path: Path) -> bool:
    """False for what is left where the first commit was never made."""
    return any(path.glob("_versions/*.manifest"))


def _bytes_in(directory: Path) -> int:
    """Bytes of all files below; those that go meanwhile may be left out."""
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with suppress(OSError):
                total += Path(folder, file).stat().st_size
    return total


def _is_deleted(table: Any) -> bool:
    return _DELETED_KEY in (table.schema.metadata or {})


def _complaint(uri: str, error: Exception) -> str:
    what = str(error).partition(", location: Location")[0]  # the rest is a line of Lance's source
    return (
        f"the vector store at {uri} cannot be opened: {what}; expected a bucket that answers, and in which this "
        "server may list, read, write and delete; check BURNISH_EMBEDDING_STORE_URI and, in the environment, "
        "credentials and endpoint (for s3://: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; for a store "
        "other than Amazon's also AWS_ENDPOINT_URL, with AWS_ALLOW_HTTP=true where that is http://)"
    )
