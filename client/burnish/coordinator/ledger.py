"""The ledger: a DuckDB file with one writer, forward-only schema and whole batches. The only door to duckdb.

Owns the connection, the lock, the schema version and how a batch gets in. What the tables mean is `schema/*.sql`;
typed reading and writing is `book.py` (the loop) and `history.py` (reports).
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa

from burnish.coordinator.atomic import FULL, disk_full
from burnish.coordinator.errors import LedgerBusy, LedgerDamaged, LedgerError, LedgerTooNew

# Nothing is fetched from elsewhere at run time: what the ledger needs is built into duckdb.
_CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_ROWS_PER_WRITE = 5000
_READERS_END = 300.0  # seconds that a writer waits for them
_HOLDER = re.compile(r"\(PID (\d+)\)")  # how duckdb names who has its lock
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
# How duckdb says that a file is not as it wrote it: by its checksums, or because what it reads makes no sense.
_DAMAGED = ("Corrupt", "checksum", "replaying WAL", "Serialization Error", "INTERNAL Error", "has been invalidated")


class Ledger:
    """An open ledger. Not safe for use from several threads at once."""

    def __init__(self, path: Path, connection: Any, lock: IO[str] | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, while_read: Callable[[str], None] | None = None) -> Ledger:
        """Opens the ledger at `path`; for writing, makes it where it is missing and brings its schema up to date, and
        waits for those who read it: `while_read` is called again and again meanwhile with a sentence that says so, and
        ends the wait by raising. Raises LedgerBusy where another process writes to it, or reads it for too long,
        LedgerTooNew, LedgerError."""
        if read_only:
            return cls._open_to_read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
        try:
            if not path.exists():
                _create(path)
            ledger = cls(path, _connect(path, read_only=False, while_read=while_read), lock)
        except BaseException:
            lock.close()
            raise
        try:
            ledger._migrate()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _open_to_read(cls, path: Path) -> Ledger:
        if not path.exists():
            raise LedgerError(f"{path}: there is no ledger; expected the folder of a run, as given to --out.")
        holder = lock_holder(path)
        if holder is not None:
            raise _busy(path, holder)
        ledger = cls(path, _connect(path, read_only=True), None)
        try:
            version = ledger._version()
        except BaseException:
            ledger.close()
            raise
        if version != len(migrations()):
            ledger.close()
            if version < len(migrations()):  # opening for writing brings it up to date
                cls.open(path).close()
                return cls._open_to_read(path)
            raise _too_new(path, version)
        return ledger

    def close(self) -> None:
        """Closes the ledger and lets others have it; safe to call twice."""
        try:
            self._connection.close()
        except duckdb.Error as error:
            raise _translated(self.path, error) from error
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written in the block gets in, or nothing does. Blocks do not nest. Raises DiskFull."""
        try:
            self._connection.begin()
            yield
            self._connection.commit()
        except duckdb.Error as error:
            self._roll_back()
            raise _translated(self.path, error) from error
        except BaseException:
            self._roll_back()
            raise

    def append(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, conflict: str = ""
    ) -> None:
        """Adds `rows` to `table`, by way of Arrow, a few thousand in a statement. `conflict` is an ON CONFLICT clause;
        without one a key that is there already is an error."""
        names, left = ", ".join(columns), iter(rows)
        while part := list(islice(left, _ROWS_PER_WRITE)):
            batch = pa.table(dict(zip(columns, map(list, zip(*part, strict=True)), strict=True)))
            self._connection.register("incoming", batch)
            try:
                self.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM incoming {conflict}")
            finally:
                self._forget("incoming")

    def execute(self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> None:
        """Runs one statement that returns nothing of interest."""
        try:
            self._connection.execute(statement, parameters)
        except duckdb.Error as error:
            raise _translated(self.path, error) from error

    def select(
        self, query: str, parameters: Sequence[object] | Mapping[str, object] = (), *, keys: Sequence[str] | None = None
    ) -> list[Any]:
        """All rows of a query. With `keys`, the query may use a table `wanted(position, key)` that holds them."""
        try:
            if keys is not None:
                batch = pa.table({"position": range(len(keys)), "key": pa.array(keys, pa.string())})
                self._connection.register("wanted", batch)
            return self._connection.execute(query, parameters).fetchall()
        except duckdb.Error as error:
            raise _translated(self.path, error) from error
        finally:
            if keys is not None:
                self._forget("wanted")

    def stream(self, query: str, parameters: Sequence[object] = (), *, size: int = 2048) -> Iterator[Any]:
        """The rows of a query, `size` in memory at a time; other queries may run in between."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(query, parameters)
            while rows := cursor.fetchmany(size):
                yield from rows
        except duckdb.Error as error:
            raise _translated(self.path, error) from error
        finally:
            cursor.close()

    def _forget(self, name: str) -> None:
        with suppress(duckdb.Error):  # in a transaction that failed, rolling back does it
            self._connection.unregister(name)

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # the failure that led here may have ended the transaction
            self._connection.rollback()

    def _version(self) -> int:
        try:
            (version,) = self._connection.execute("SELECT max(version) FROM schema_version").fetchone()
        except duckdb.CatalogException:
            tables = self._connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()[0]
            if tables:
                self.close()
                raise LedgerError(f"{self.path}: is a DuckDB file, but no ledger of Burnish.") from None
            return 0
        except duckdb.Error as error:
            raise _translated(self.path, error) from error
        return int(version)

    def _migrate(self) -> None:
        """Applies the schema files that this ledger has not seen, each in a transaction of its own."""
        version = self._version()
        if version > len(migrations()):
            raise _too_new(self.path, version)
        for number, statements in enumerate(migrations()[version:], start=version + 1):
            with self.transaction():
                if number == 1:
                    self.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
                self.execute(statements)
                self.execute("INSERT INTO schema_version VALUES (?)", [number])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps everybody else from writing the ledger at `path`. Raises LedgerBusy."""
    lock = _take_lock(path)
    try:
        yield
    finally:
        lock.close()


@contextmanager
def connected(path: Path) -> Iterator[Ledger]:
    """The ledger at `path` as it is, for reading, whatever its version, by who has locked it. Raises LedgerError."""
    ledger = Ledger(path, _connect(path, read_only=True), None)
    try:
        yield ledger
    finally:
        ledger.close()


def migrations() -> tuple[str, ...]:
    """The schema files in order; the last one's number is the schema's version."""
    folder = resources.files("burnish.coordinator.schema")
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for number, name in enumerate(files, start=1):
        if int(name.split("_")[0]) != number:
            raise RuntimeError(f"schema files must be numbered from 001 without gaps; found {name} in place {number}")
    return tuple((folder / name).read_text(encoding="utf-8") for name in files)


def lock_holder(path: Path) -> int | None:
    """The process that writes to the ledger at `path` now; None where nobody does. 0: somebody, but not known who."""
    lock_file = _lock_file(path)
    try:
        with lock_file.open(encoding="utf-8") as stream:  # enough for a shared lock; it may be another user's
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _pid_in(lock_file)
    except PermissionError:  # whether the other user's run goes on cannot be told, and that it was killed neither
        return 0


def check_free(path: Path) -> None:
    """Raises LedgerBusy where another process writes to the ledger at `path` now."""
    holder = lock_holder(path)
    if holder is not None:
        raise _busy(path, holder)


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _pid_in(lock_file: Path) -> int:
    text = lock_file.read_text(encoding="utf-8").strip()
    return int(text) if text.isdigit() else 0


def _take_lock(path: Path) -> IO[str]:
    """A lock of our own beside duckdb's: it says who holds it, and the kernel lets go of it when the holder dies."""
    stream = _lock_file(path).open("a+", encoding="utf-8")
    for patience in (0.1, 0.0):  # somebody may just be looking who holds it
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not patience:
                stream.close()
                raise _busy(path, _pid_in(_lock_file(path))) from None
            time.sleep(patience)
    try:
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
    except OSError as error:
        stream.close()
        raise (
            disk_full(path, error)
            if error.errno in FULL
            else LedgerError(f"{path}: cannot be locked: {error.strerror or error}.")
        ) from error
    return stream


def _create(path: Path) -> None:
    """Makes an empty database beside `path` and moves it there, so that a kill leaves none or a whole one."""
    # The log of a ledger that was moved away by itself; beside another one, DuckDB would call that damaged.
    orphan = path.with_name(f"{path.name}.wal")
    if orphan.exists():
        orphan.replace(orphan.with_name(f"{orphan.name}.left-{time.time_ns()}"))
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.with_name(temporary.name + ".wal").unlink(missing_ok=True)
    _connect(temporary, read_only=False).close()
    temporary.replace(path)


def _connect(path: Path, *, read_only: bool, while_read: Callable[[str], None] | None = None) -> Any:
    until = time.monotonic() + _READERS_END
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
        except duckdb.Error as error:
            found = _translated(path, error)
            if read_only or not isinstance(found, LedgerBusy):
                raise found from error
            # There is no other writer, or our own lock had told; and a report has soon been read.
            if time.monotonic() >= until:
                raise _read_too_long(path, found.pid) from error
            if while_read is not None:
                while_read(
                    f"{path} is being read by {_named(found.pid)} ({_READERS}); waiting up to {_READERS_END:.0f} s for"
                    " that to end."
                )
            time.sleep(0.1)


_READERS = "a report, explain or export of a run in it, or another program that has it open"


def _named(pid: int | None) -> str:
    return f"process {pid}" if pid else "another process"


def _busy(path: Path, pid: int) -> LedgerBusy:
    stop = f"stop it (kill -INT {pid})" if pid else "stop it"
    return LedgerBusy(
        f"{path} is being written by {_named(pid)}; a ledger has one writer, and no reader meanwhile. `burnish status"
        f" {path.parent}` shows how far it is; wait for it, or {stop} and run this again.",
        pid or None,
    )


def _read_too_long(path: Path, pid: int | None) -> LedgerBusy:
    return LedgerBusy(
        f"{path} is being read by {_named(pid)} ({_READERS}), and nothing can be written meanwhile; it did not end"
        f" within {_READERS_END:.0f} s. Nothing is lost: wait for it, or end it, and run the same command again.",
        pid,
    )


def _too_new(path: Path, version: int) -> LedgerTooNew:
    return LedgerTooNew(
        f"{path} has schema version {version}; this Burnish knows versions up to {len(migrations())}. Use the newer"
        " Burnish that made it, or another --out."
    )


def _translated(path: Path, error: duckdb.Error) -> LedgerError:
    text = str(error)
    if any(words in text for words in _FULL):
        return disk_full(path, error)
    if "Could not set lock" in text or "Conflicting lock" in text:
        holder = _HOLDER.search(text)
        return _busy(path, int(holder[1]) if holder else 0)
    if "not a valid DuckDB database file" in text:
        return LedgerError(
            f"{path}: is no ledger ({text}). Expected the folder of a run; choose another --out. If it was one, its"
            " beginning is destroyed: put a copy back, or move it away and run the same command, which begins anew."
        )
    if any(words in text for words in _DAMAGED):
        return LedgerDamaged(
            f"{path} is damaged: {text.strip().splitlines()[0]}. It is not as it was written; look after the disk."
            f" `burnish repair {path.parent}` saves what is whole in it, and the same command as before then does only"
            " what is missing; or put a copy of the file back."
        )
    if "database file with version" in text or "storage version" in text.lower():
        return LedgerTooNew(f"{path} was made by a newer DuckDB than the one installed here: {text}")
    return LedgerError(f"{path}: the ledger failed: {text}")
