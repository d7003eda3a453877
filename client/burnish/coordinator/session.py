"""Opening and closing a run: which run a directory holds, whether it may go on, who is told, and what it leaves.

A run directory holds one run. Its id is made from recipe, data and settings, so that the same command finds the same
run, and another one is refused by naming what differs.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish._client import AsyncClient
from burnish._errors import PreconditionFailed
from burnish._outgoing import working_on
from burnish._tracing import span
from burnish.coordinator.afterwards import check_options, complete
from burnish.coordinator.atomic import write_json
from burnish.coordinator.book import RunBook
from burnish.coordinator.content import digest_of
from burnish.coordinator.errors import CoordinatorError, Interrupted, NoRun, RunMismatch, StepFailed
from burnish.coordinator.export import ExportFormat, export
from burnish.coordinator.formats import find_files
from burnish.coordinator.formats.files import digest_files
from burnish.coordinator.history import RunHistory, points_of, run_ids, runs_in
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.paths import RunPaths, is_remote
from burnish.coordinator.progress import Observer, Observers, StatusFile
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions
from burnish.coordinator.recipes.registry import settings_in
from burnish.coordinator.records import ModelRecord
from burnish.coordinator.steps.stage import RunContext


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run made: rows before and after, the models by round, of them the one trained on the final data
    set, and the files of that."""

    run_id: str
    out_dir: Path
    rows_in: int
    rows_out: int
    models: tuple[ModelRecord, ...]
    final_model: ModelRecord | None
    files: tuple[Path, ...]


@asynccontextmanager
async def opened(
    settings: RecipeSettings,
    client: AsyncClient,
    out_dir: Path,
    options: RunOptions | None,
    observer: Observer | None,
    stop: asyncio.Event | None,
    ledger: Path | None = None,
) -> AsyncIterator[RunContext[Any]]:
    """The run of `settings` in `out_dir`, new or gone on with, in its ledger or in `ledger`, which several runs
    may share. Raises InputError, RunMismatch, LedgerError, Interrupted."""
    paths = RunPaths.find(out_dir) if ledger is None else RunPaths(out_dir, ledger)
    check_options(settings, options or RunOptions())
    with await _ledger(paths.ledger, observer, stop) as opened_ledger:
        # Nobody else copies what is in object storage meanwhile.
        local = await asyncio.to_thread(settings.absolute().with_copies, paths.source)
        identity = await asyncio.to_thread(_identity, local)
        run_id = f"{local.RECIPE}-{digest_of(identity)[:12]}"
        there = runs_in(opened_ledger, paths)
        if there and run_id not in there:
            before = RunBook(opened_ledger, there[0])
            if before.history().run.source is not None:
                raise _mismatch(paths, there[0], before, identity)
            with before.transaction():  # it got no further than its data, which were bad or are not those meant
                before.forget()
            there = []
        if not there:
            _check_nowhere_else(opened_ledger, paths, run_id)
        config = _config(run_id, local, options or RunOptions(), identity)
        async with _working(opened_ledger, config, local, client, paths, observer, stop, resumed=bool(there)) as run:
            yield run


@asynccontextmanager
async def reopened(
    out_dir: Path,
    client: AsyncClient,
    options: RunOptions | None,
    observer: Observer | None,
    stop: asyncio.Event | None,
) -> AsyncIterator[RunContext[Any]]:
    """The run that is in `out_dir`. Raises NoRun where there is none, RunMismatch where its data changed before
    they were read."""
    paths = RunPaths.find(out_dir)
    if not paths.ledger.exists():
        raise NoRun(paths.out)
    with await _ledger(paths.ledger, observer, stop) as ledger:
        there = runs_in(ledger, paths)
        if not there:
            raise NoRun(paths.out)
        book = RunBook(ledger, there[0])
        record = book.history().run
        before: dict[str, Any] = dict(record.config)
        settings = settings_in(record, RecipeSettings)
        if record.source is None:
            identity = await asyncio.to_thread(_identity, settings)
            if identity != before["identity"]:
                raise _mismatch(paths, there[0], book, identity, _BEGIN_ANEW)
        kept = options or RunOptions.model_validate(before["options"])
        check_options(settings, kept)
        config = _config(there[0], settings, kept, before["identity"])
        async with _working(ledger, config, settings, client, paths, observer, stop, resumed=True) as run:
            yield run


def summary(run: RunContext[Any]) -> RunSummary:
    """Writes the final data set, notes the end, and says what was made."""
    history = run.book.history()
    files = export(history, ExportFormat.SOURCE, run.paths.final)
    with run.book.transaction():
        run.book.finish()
    return _summary(history, run.paths, files)


def finished(settings: RecipeSettings, out_dir: Path, options: RunOptions | None = None) -> RunSummary | None:
    """What the run of `settings` in `out_dir` made, where it is done, its files are there, and so is all that `options`
    ask it to be compared with; None otherwise. Needs no service, so that repeating the command of a finished run costs
    nothing. Raises what `RunHistory.open` does, InputError, and DataError where a truth cannot be read."""
    check_options(settings, options or RunOptions())
    paths = RunPaths.find(out_dir)
    if not paths.ledger.exists() or not paths.final.is_dir():
        return None
    with RunHistory.open(out_dir) as history:
        run = history.run
        if run.finished_at is None or run.config["identity"] != _identity(
            settings.absolute().with_copies(paths.source)
        ):
            return None
        last = _final_model(history)
        if last is not None and not is_remote(last.uri) and not Path(last.uri).is_dir():
            return None
        if not complete(history, settings, options or RunOptions()):
            return None
        return _summary(history, paths, sorted(paths.final.iterdir()))


def may_hold(settings: RecipeSettings, paths: RunPaths) -> bool:
    """Whether the run that was begun in a folder, by what is written there, is one of `settings` but for the content of
    its files, which are not looked at."""
    there, files = paths.written.get("identity"), settings.files()
    now = settings.absolute().identity({})
    return isinstance(there, dict) and _but(there, files) == _but(now, files)


def holds(settings: RecipeSettings, paths: RunPaths) -> bool:
    """Whether the run that was begun in a folder, by what is written there, is that of `settings`. Raises DataError
    where data cannot be found."""
    return may_hold(settings, paths) and paths.written["identity"] == _identity(
        settings.absolute().with_copies(paths.source)
    )


def _but(identity: Mapping[str, Any], names: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in names}


def _summary(history: RunHistory, paths: RunPaths, files: Sequence[Path]) -> RunSummary:
    datasets = history.datasets()
    return RunSummary(
        history.run_id,
        paths.out,
        datasets[0].num_rows,
        datasets[-1].num_rows,
        tuple(history.models()),
        _final_model(history),
        tuple(files),
    )


def _final_model(history: RunHistory) -> ModelRecord | None:
    """The model trained on the last data set; None where none was."""
    last = history.datasets()[-1].round
    return next((model for model in history.models() if (model.role, model.round) == ("trained", last)), None)


@contextmanager
def stopping_on_signals(observer: Observer | None) -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets, once; a second signal acts as if nobody had asked for it. Outside the main
    thread there are no signals, and the event is only an event."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    names = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def ask() -> None:
        stop.set()
        for name in names:
            loop.remove_signal_handler(name)
        if observer is not None:
            observer.noted("Stopping once the work on the way is in; once more stops at once.")

    for name in names:
        loop.add_signal_handler(name, ask)
    try:
        yield stop
    finally:
        for name in names:
            loop.remove_signal_handler(name)


async def _ledger(path: Path, observer: Observer | None, stop: asyncio.Event | None) -> Ledger:
    """The ledger at `path`, to be written. Where others read it, says so once and waits for them; a stop ends that.
    Raises LedgerError, Interrupted."""
    loop, cancelled, told = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def while_read(text: str) -> None:
        if cancelled.is_set() or (stop is not None and stop.is_set()):
            raise Interrupted(
                f"Stopped on request. {text.split(';')[0]}; nothing was begun: run the same command again."
            )
        if observer is not None and not told.is_set():
            told.set()
            loop.call_soon_threadsafe(observer.noted, text)

    opening = asyncio.ensure_future(asyncio.to_thread(Ledger.open, path, while_read=while_read))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        cancelled.set()
        with suppress(CoordinatorError):
            (await opening).close()
        raise


def _check_nowhere_else(ledger: Ledger, paths: RunPaths, run_id: str) -> None:
    """Raises RunMismatch where a ledger that runs share has this one, and it is in another folder: its files would be
    missing here."""
    if paths.shared_ledger is None or run_id not in run_ids(ledger):
        return
    for folder in points_of(paths.ledger):
        if folder.resolve() != paths.out.resolve() and RunPaths(folder).written.get("run_id") == run_id:
            raise RunMismatch(
                f"The run of these settings, {run_id}, is in {folder} and not in {paths.out}; a ledger has a run once,"
                f" and its files are there. Go on with it there: `burnish resume {folder}`."
            )


@asynccontextmanager
async def _working(
    ledger: Ledger,
    config: Mapping[str, Any],
    settings: RecipeSettings,
    client: AsyncClient,
    paths: RunPaths,
    observer: Observer | None,
    stop: asyncio.Event | None,
    *,
    resumed: bool,
) -> AsyncIterator[RunContext[Any]]:
    book = RunBook(ledger, str(config["run_id"]))
    with book.transaction():
        book.begin(settings.RECIPE, config, __version__)
    write_json(paths.config, {**config, **paths.to_write})
    observers = Observers([StatusFile(paths.status), *([observer] if observer else [])])
    run = RunContext(
        settings=settings,
        options=RunOptions.model_validate(config["options"]),
        client=client,
        book=book,
        paths=paths,
        observer=observers,
        stop=stop or asyncio.Event(),
    )
    observers.run_started(book.run_id, paths.out, resumed)
    try:
        with working_on(book.run_id), span(f"run {settings.RECIPE}", {"burnish.run_id": book.run_id}), _explained():
            yield run
    except BaseException as error:
        observers.run_ended(error)
        raise
    observers.run_ended(None)


@contextmanager
def _explained() -> Iterator[None]:
    """What a service refuses in words of its own, in those of a run."""
    try:
        yield
    except PreconditionFailed as error:
        if error.reason != "MODEL_DIGEST_MISMATCH":
            raise
        raise StepFailed(
            "A model is not what it was when this run began; its files changed on disk, or another one was put in its"
            f" place. Put it back, or begin a new run with another --out. ({error})"
        ) from error


def _identity(settings: RecipeSettings) -> dict[str, Any]:
    """What the run's id is made from. Raises DataError where data cannot be found."""
    return settings.identity(
        {name: digest_files(find_files(paths)) if paths else "" for name, paths in settings.files().items()}
    )


def _config(run_id: str, settings: RecipeSettings, options: RunOptions, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recipe": settings.RECIPE,
        "run_id": run_id,
        "settings": settings.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
        "identity": dict(identity),
    }


_ABSENT = "not known"  # of a setting that one of two recipes does not have
_BEGIN_ANEW = "It has read no data yet: repeat the command that began it, and it begins anew with what there is now."


def _mismatch(
    paths: RunPaths, run_id: str, book: RunBook, identity: Mapping[str, Any], instead: str = ""
) -> RunMismatch:
    there: Any = book.history().run.config["identity"]
    names = [name for name in {**there, **identity} if there.get(name, _ABSENT) != identity.get(name, _ABSENT)]
    differences = "; ".join(
        f"{name}: {_brief(there.get(name, _ABSENT))} there, {_brief(identity.get(name, _ABSENT))} now" for name in names
    )
    go_on = f"Give --out another folder, or go on with that run: `burnish resume {paths.out}`."
    return RunMismatch(
        f"{paths.out} holds run {run_id} with other data or settings ({differences}). {instead or go_on}"
    )


def _brief(value: object) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
