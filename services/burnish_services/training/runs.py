"""Runs on disk: what was asked for, and where everything about a run is kept.

    STATE/training/<run_id>/
      spec.json       what was asked for and what it meant on the day it was asked; never changes
      events.jsonl    every state the run was in (`events.py`)
      worker.log      what the workers wrote on standard error
      worker-node-K.log   … those on follower K, of a run that several machines train
      pools/          responses that a self-refining run was given, and `no-more` once it is not to pause again; of
                      them only the digests stay when the run has ended
      paused/         the model as it is at a pause; replaced at the next, removed when the run has ended
      weights/        what a bilevel selection has learnt, epoch by epoch (`sample_weights.py`)
      checkpoints/    the last whole checkpoint; removed when the run has ended, unless the next may go on from it
      best.safetensors  the best weights so far, if the run may publish them; removed with the checkpoint
      result.json     what the worker is about to publish, so that a crash in that moment is no loss
      cancelled       there once the run is to end as cancelled, whatever becomes of this server
      placed          there while object storage may hold something of the run that is not its model, whole
      model/          the trained model, unless the caller named another directory; on its way to object storage, too
    STATE/training/.new-…  a run that is being made, or removed; nobody's once the server has ended
    STATE/training/data/   copies of data that was uploaded or fetched (`data_store.py`)
    STATE/training/nodes/  what the machines of a service on several of them tell each other (`nodes.py`)

Owns the layout and creating, finding and listing runs. What happens to them is the supervisor's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from burnish_services.engine.object_places import ObjectPlace
from burnish_services.runtime.files import sync_path, write_whole
from burnish_services.training.core import Bilevel, Lora, Plan, Refinement, RunSpec
from burnish_services.training.events import Event, EventLog
from burnish_services.training.state import Result, Snapshot

log = logging.getLogger(__name__)


class RequestConflict(ValueError):
    """A request id was used before with another specification."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Bilevel data selection: how, and the samples that weights are learnt from."""

    how: Bilevel
    validation: Path
    validation_digest: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a specification means on this machine; all paths absolute."""

    plan: Plan
    base: Path
    base_digest: str
    data: Path
    data_digest: str
    eval_data: Path | None
    output: Path
    trainer: str  # "sft" or "fake"
    chat_template: str | None = None  # name or file, instead of the model's own
    processes: int = 1  # that train together, on all machines
    nodes: int = 1  # machines
    lora: Lora | None = None
    selection: Selection | None = None
    refinement: Refinement | None = None
    # Where in object storage the base model is from, and where the trained one goes from `output`; empty: neither.
    base_uri: str = ""
    publish_to: str = ""
    made_by: str = ""  # digest of the software that makes the weights, the chat template included
    eval_digest: str = ""  # empty: there are no such data

    @property
    def model_uri(self) -> str:
        """What the trained model is called once it is published."""
        return self.publish_to or str(self.output)

    @property
    def place(self) -> ObjectPlace | None:
        """`publish_to`, taken apart."""
        return ObjectPlace.parse(self.publish_to) if self.publish_to else None

    @property
    def data_files(self) -> tuple[Path, ...]:
        """All files of samples."""
        validation = () if self.selection is None else (self.selection.validation,)
        return (self.data, *(() if self.eval_data is None else (self.eval_data,)), *validation)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The part of a run that never changes. `sequence` counts runs in the order of their creation, from 1."""

    run_id: str
    request_id: str
    sequence: int
    create_time: float
    spec: RunSpec
    resolved: Resolved


_RECORD = TypeAdapter(RunRecord)
_RESULT = TypeAdapter(Result)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where the things of one run are."""

    path: Path

    @property
    def spec(self) -> Path:
        """See the module's picture, as for all below."""
        return self.path / "spec.json"

    @property
    def events(self) -> Path:
        """Events."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The workers' log."""
        return self.path / "worker.log"

    def log_of(self, node: int) -> Path:
        """The log of the workers of one machine; 0: the server's own."""
        return self.path / f"worker-node-{node}.log" if node else self.log

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best weights so far, of a run that may publish them."""
        return self.path / "best.safetensors"

    @property
    def weights(self) -> Path:
        """Folder of the weights that a selection has learnt."""
        return self.path / "weights"

    def pool(self, step: int) -> Path:
        """The responses that a self-refining run goes on with after so many steps; empty: with none."""
        return self.path / "pools" / f"{step}.jsonl"

    def pool_digest(self, step: int) -> Path:
        """The digest of those, which outlasts them."""
        return self.path / "pools" / f"{step}.digest"

    @property
    def no_more(self) -> Path:
        """There once a self-refining run is not to pause again."""
        return self.path / "pools" / "no-more"

    @property
    def paused(self) -> Path:
        """The model of a run that pauses."""
        return self.path / "paused"

    @property
    def model(self) -> Path:
        """The trained model, unless the caller named another directory."""
        return self.path / "model"

    @property
    def result(self) -> Path:
        """The result that is about to be published."""
        return self.path / "result.json"

    @property
    def placed(self) -> Path:
        """There while anything in object storage may be this run's that is not yet its model, whole."""
        return self.path / "placed"

    @property
    def cancelled(self) -> Path:
        """There once somebody was told that the run is cancelled, which the server may not live to see."""
        return self.path / "cancelled"

    def note_placed(self) -> None:
        """Before anything is put there."""
        if not self.placed.is_file():
            write_whole(self.placed, b"", durable=True)

    def read_record(self) -> RunRecord:
        """What was asked for. Raises OSError or pydantic.ValidationError."""
        return _RECORD.validate_json(self.spec.read_bytes())

    def write_result(self, result: Result) -> None:
        """Notes a result whole or not at all, on disk before it returns."""
        write_whole(self.result, _RESULT.dump_json(result), durable=True)

    def read_result(self) -> Result | None:
        """The noted result, if there is one."""
        return _RESULT.validate_json(self.result.read_bytes()) if self.result.is_file() else None


class Run:
    """A run in the server: its record, its events, and waking up those who watch it."""

    def __init__(self, directory: RunDirectory, record: RunRecord, events: EventLog) -> None:
        self.directory = directory
        self.record = record
        self.events = events
        self._changed = asyncio.Event()

    @property
    def last(self) -> Event:
        """The newest event; creating a run writes the first."""
        assert self.events.last is not None
        return self.events.last

    @property
    def snapshot(self) -> Snapshot:
        """The run as it is now."""
        return self.last.snapshot

    def update(self, snapshot: Snapshot, at: float) -> None:
        """Makes `snapshot` the run's newest event and wakes the watchers."""
        durable = snapshot.state is not self.snapshot.state
        self.events.append(snapshot, at, durable=durable)
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed_since(self, number: int) -> None:
        """Returns once there is an event after `number`."""
        while self.last.number <= number:
            await self._changed.wait()


class RunDamaged(Exception):
    """A run that cannot be read has the place of another; the message is for people."""


class RunStore:
    """All runs below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._runs: dict[str, Run] = {}

    def load(self) -> None:
        """Reads the runs that earlier servers left. One that cannot be read is named in the log and left alone."""
        self._root.mkdir(parents=True, exist_ok=True)
        for path in self._root.iterdir():
            if path.name.startswith(".new-"):
                # A creation that never finished and was never answered, or a removal that did not come to its end.
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("run-"):
                try:
                    self._load_run(RunDirectory(path))
                except (OSError, ValueError) as error:
                    log.error("run %s cannot be read and is left out: %s", path.name, error)

    def _load_run(self, directory: RunDirectory) -> None:
        record = directory.read_record()
        if record.run_id != directory.path.name:
            raise ValueError(f"it holds the record of {record.run_id!r}; expected that of the run it is called by")
        events = EventLog(directory.events)
        if events.last is None:
            # Its first event was torn off by a crash of the machine.
            events.append(Snapshot(), record.create_time, durable=True)
        self._runs[record.run_id] = Run(directory, record, events)

    def get(self, run_id: str) -> Run | None:
        """The run with this id."""
        return self._runs.get(run_id)

    def find(self, request_id: str, spec: RunSpec) -> Run | None:
        """The run created for a request. Raises RequestConflict where it was created for another specification."""
        run = self.get(run_id_of(request_id))
        if run is not None and run.record.spec != spec:
            raise RequestConflict(
                f"request id {request_id!r} was used before, for another specification (run {run.record.run_id}); "
                "choose another request id"
            )
        return run

    @property
    def last_sequence(self) -> int:
        """That of the newest run; 0 where there are none."""
        return max((run.record.sequence for run in tuple(self._runs.values())), default=0)

    def oldest_first(self) -> Iterator[Run]:
        """Every run in the order of creation."""
        return iter(sorted(self._runs.values(), key=lambda run: run.record.sequence))

    def data_in_use(self) -> set[str]:
        """File names of the data of all runs that have not ended. Also asked in other threads."""
        names: set[str] = set()
        for run in tuple(self._runs.values()):
            if not run.snapshot.state.ended:
                names |= {path.name for path in run.record.resolved.data_files}
        return names

    def page(self, before: int | None, size: int) -> list[Run]:
        """At most `size` runs, newest first, with a sequence number below `before` (None: from the newest)."""
        found = [run for run in self._runs.values() if before is None or run.record.sequence < before]
        return sorted(found, key=lambda run: -run.record.sequence)[:size]

    def directory_for(self, request_id: str) -> RunDirectory:
        """Where the run of a request is or would be."""
        return RunDirectory(self._root / run_id_of(request_id))

    def create(self, request_id: str, spec: RunSpec, resolved: Resolved) -> Run:
        """Makes a run whose request id is new; on disk, whole, before it returns. Raises RunDamaged,
        OSError."""
        directory = self.directory_for(request_id)
        if directory.path.exists():
            raise RunDamaged(
                f"run {directory.path.name} of request id {request_id!r} is there, but could not be read when this"
                " server started (its log says why); choose another request id, or have its operator look after"
                f" {directory.path} and remove it"
            )
        sequence = 1 + self.last_sequence
        record = RunRecord(directory.path.name, request_id, sequence, time.time(), spec, resolved)
        beside = RunDirectory(self._root / f".new-{record.run_id}")
        shutil.rmtree(beside.path, ignore_errors=True)
        try:
            beside.path.mkdir(parents=True)
            write_whole(beside.spec, _RECORD.dump_json(record, indent=2), durable=True)
            beside.path.rename(directory.path)
        except OSError:
            shutil.rmtree(beside.path, ignore_errors=True)
            raise
        sync_path(self._root)
        self._load_run(directory)
        return self._runs[record.run_id]

    async def remove(self, run: Run) -> None:
        """Forgets a run that has ended, with its whole directory: whatever is killed when, `load` finds all of it or
        nothing. The run with the `last_sequence` must stay, or another would get its number. Raises OSError."""
        gone = self._root / f".new-gone-{uuid.uuid4().hex}"
        # Nothing comes between these two, so that nobody finds a run without its directory, or creates it beside that.
        run.directory.path.rename(gone)
        del self._runs[run.record.run_id]
        await asyncio.to_thread(_clear_away, gone)


def _clear_away(gone: Path) -> None:
    sync_path(gone.parent)  # or a loss of power might bring back what is only half there
    shutil.rmtree(gone, ignore_errors=True)


def run_id_of(request_id: str) -> str:
    """The id of a request's run: the same request always finds the same run, without an index."""
    return "run-" + hashlib.sha256(request_id.encode()).hexdigest()[:16]
