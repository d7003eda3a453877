"""Step `train`: a model from the base model and a round's data, by the training service.

The request id is made from the run, the round and everything that determines the result, so that a coordinator that
was killed finds its training run again instead of beginning another.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from burnish._errors import NotFound, PreconditionFailed, ServiceError
from burnish._training import EVENTS_GONE, AsyncRun
from burnish._training_types import BilevelSelection, Lora, SelfRefinement
from burnish._types import Hyperparameters, ModelRef, RunEvent, RunResult, RunSnapshot, RunSpec, RunState
from burnish.coordinator.atomic import write_lines
from burnish.coordinator.content import digest_of, message_list
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.paths import is_remote
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.records import ModelRecord
from burnish.coordinator.steps.measure import ROWS_PER_READ
from burnish.coordinator.steps.stage import AnyRun, Stage

# Has a training run that waits in STATE_PAUSED go on.
AtPause = Callable[[AsyncRun], Awaitable[None]]
ROWS = "rows"  # in a model's detail: the digest of those that it was trained on
_OTHER_MODEL, _PLACE_TAKEN = "MODEL_DIGEST_MISMATCH", "OUTPUT_EXISTS"
_EVENTS_EVERY = 1.0  # seconds between two commits of training events


async def train(
    run: AnyRun,
    round_number: int,
    base: ModelRef,
    rows: Sequence[DataRow] | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    hyperparameters: Hyperparameters | None = None,
    bilevel: BilevelSelection | None = None,
    refinement: SelfRefinement | None = None,
    at_pause: AtPause | None = None,
) -> ModelRef:
    """M_t: `base` fine-tuned on D_t, or on `rows`, as the settings say or by `hyperparameters`; with `weights`, by row
    id and above 0, a row's loss is multiplied by its weight. It learns weights with `bilevel`, and with `refinement`
    from what `at_pause` has the run go on with. What any run of this ledger trained on the same data in the same way,
    and without a pause, is taken over. The run's own last model is made again where it is gone. Raises StepFailed where
    training ended badly."""
    record = run.book.model(round_number, "trained")
    if record is not None and (gone := await _what_is_gone(run, round_number, record, bilevel)):
        run.observer.noted(f"Round {round_number}: {gone}; it is trained again.")
        with run.book.transaction():
            run.book.forget_trained(round_number)
        record = None
    stage = run.stage(round_number, "train")
    if stage.done and record is not None:
        return ModelRef(record.uri, record.digest)
    with stage.working():
        if record is not None:  # killed between the model and the note that the step is done
            return ModelRef(record.uri, record.digest)
        rows = run.book.rows(round_number) if rows is None else rows
        digest = _write_data(run, round_number, rows, weights or {})
        spec = RunSpec(
            base_model=base,
            data_uri=str(run.paths.data(round_number)),
            data_digest=digest,
            hyperparameters=hyperparameters or run.settings.hyperparameters(round_number),
            lora=run.settings.lora(),
            bilevel=bilevel,
            refinement=refinement,
        )
        # What a run was given at its pauses is in the ledger alone: one that was lost, or repaired, has another run.
        ledger = [run.book.began()] if refinement else []
        made_of = digest_of([base.digest, digest, _given(spec.hyperparameters), *_special(spec), *ledger])
        spec = replace(spec, output_uri=_output(run, round_number, made_of))
        # What a run with pauses makes of the same data depends on what it was given at them.
        key = None if refinement else made_of
        if key is not None and (there := await _trained_already(run, round_number, key, rows, bilevel)):
            return ModelRef(there.uri, there.digest)
        training = await _create(run, round_number, spec, ledger)
        await _watch(run, stage, training, at_pause)
        result = _result(training)
        record = ModelRecord(
            round=round_number,
            role="trained",
            uri=result.model.uri,
            digest=result.model.digest,
            training_run=training.run_id,
            train_loss=result.train_loss,
            eval_loss=None,
            detail={
                "training_key": key,
                "num_samples": result.num_samples,
                "skipped": list(result.skipped),
                "num_tokens": result.num_tokens,
                "seconds": result.seconds,
                "steps": training.snapshot.progress.step,
                "data_digest": result.data_digest,
                ROWS: rows_digest(rows),
            },
        )
        with run.book.transaction():
            run.book.add_model(record)
        if result.skipped:
            run.observer.noted(
                f"Round {round_number}: {len(result.skipped)} samples were left out of training (too long, of"
                f" weight 0, or no sample), the first: {result.skipped[0]}."
            )
    return ModelRef(record.uri, record.digest)


def _output(run: AnyRun, round_number: int, made_of: str) -> str:
    """Where a round's model is published. Outside the run's directory, which may be begun anew, its name says what it
    is made of: another one is never in its way."""
    if not run.options.models_uri:
        return str(run.paths.model(round_number))
    return f"{run.options.models_uri}/{run.book.run_id}/round-{round_number}-{made_of[:12]}"


def _special(spec: RunSpec) -> list[object]:
    """What makes a training different from a plain one; the validation set counts by its content, not by its place."""
    lora = [] if spec.lora is None else [_given(spec.lora)]
    bilevel = [] if spec.bilevel is None else [_given(replace(spec.bilevel, validation_data_uri=""))]
    refinement = [] if spec.refinement is None else [_given(spec.refinement)]
    return [*lora, *bilevel, *refinement]


def _given(spec: Hyperparameters | Lora | BilevelSelection | SelfRefinement) -> dict[str, object]:
    """What was asked for; what was not keeps its name out, so that a service with more to ask for changes nothing."""
    return {name: value for name, value in asdict(spec).items() if value is not None}


def steps_of(run: AnyRun, round_number: int) -> int:
    """Optimiser steps that a round's model was trained for."""
    record = run.book.model(round_number, "trained")
    assert record is not None
    return int(str(record.detail["steps"]))


def prune(run: AnyRun, round_number: int) -> None:
    """Deletes a round's model where only the last is to be kept. Only what the run itself had published."""
    if run.options.keep_models != "last":
        return
    model = run.paths.model(round_number)
    going = model.with_name(f".{model.name}.going")
    shutil.rmtree(going, ignore_errors=True)  # left by a kill
    with suppress(OSError):  # it is gone already, or the service's
        model.rename(going)  # or a kill would leave a part of a model in its place
        shutil.rmtree(going, ignore_errors=True)


async def _trained_already(
    run: AnyRun, round_number: int, key: str, rows: Sequence[DataRow], bilevel: BilevelSelection | None
) -> ModelRecord | None:
    """A model that any run of the ledger made from the same weights and data in the same way, as this round's; None
    where there is none, or the files of all are gone, or what they learnt with `bilevel`. Services check its digest
    when they load it."""
    for there in run.book.trained_before(key):
        if await _is_there(run, there) and (bilevel is None or await _is_known(run, there)):
            break
    else:
        return None
    detail = {**there.detail, ROWS: rows_digest(rows)}
    record = replace(there, round=round_number, eval_loss=None, detail=detail)
    with run.book.transaction():
        run.book.add_model(record)
    run.observer.noted(f"Round {round_number}: a model was trained on the same data before; it is used.")
    return record


async def _is_there(run: AnyRun, model: ModelRecord) -> bool:
    """Whether a model can still be had. In a store of the services' only they can look."""
    if not is_remote(model.uri):
        return await asyncio.to_thread(Path(model.uri).is_dir)
    return await _is_served(run, ModelRef(model.uri, model.digest))


async def _what_is_gone(run: AnyRun, round_number: int, model: ModelRecord, bilevel: BilevelSelection | None) -> str:
    """What the run still needs of a model that it trained, and cannot be had any more; empty where nothing is gone."""
    if await _is_lost(run, model):
        return f"the model is gone from {model.uri}"
    if bilevel is not None and await _has_lost_weights(run, round_number, model):
        return (
            f"the training service does not know run {model.training_run} any more, and with it the weights that it"
            " learnt"
        )
    return ""


async def _is_lost(run: AnyRun, model: ModelRecord) -> bool:
    """Whether it is the run's own last model, which is what the run leaves, and is gone. Where it is not seen here,
    services may see it all the same; those before it may be gone, and what still needs one says so."""
    if model.round != run.settings.rounds + 1 or is_remote(model.uri):
        return False
    return not await _is_there(run, model) and not await _is_served(run, ModelRef(model.uri, model.digest))


async def _has_lost_weights(run: AnyRun, round_number: int, model: ModelRecord) -> bool:
    """Whether the weights that were learnt with a model are still to be fetched, and are gone."""
    return not run.stage(round_number, "weigh").done and not await _is_known(run, model)


async def _is_known(run: AnyRun, model: ModelRecord) -> bool:
    """Whether the training service still knows the run that made a model."""
    assert model.training_run is not None
    try:
        await run.client.training.get(model.training_run)
    except NotFound:
        return False
    return True


async def _is_served(run: AnyRun, model: ModelRef) -> bool:
    """Whether the scoring service finds a model, and no other one in its place; True where a run has none to ask."""
    if "scoring" not in run.settings.services():
        return True
    try:
        await run.client.scoring.load_model(model)
    except NotFound:
        return False
    except PreconditionFailed as error:  # another attempt's model is there
        if error.reason != _OTHER_MODEL:
            raise
        return False
    return True


def rows_digest(rows: Sequence[DataRow]) -> str:
    """What a model's detail tells of the rows that it was trained on, as its entry `ROWS`."""
    return digest_of([row.row_id for row in rows])


def _write_data(run: AnyRun, round_number: int, rows: Sequence[DataRow], weights: Mapping[str, float]) -> str:
    """The rows as the training service reads them; returns the digest of the file's bytes."""

    def records() -> Iterator[dict[str, object]]:
        for start in range(0, len(rows), ROWS_PER_READ):
            part = rows[start : start + ROWS_PER_READ]
            samples = run.book.samples(row.sample_hash for row in part)
            for row in part:
                weight = {"weight": weights[row.row_id]} if weights else {}
                yield {"id": row.row_id, "messages": message_list(samples[row.sample_hash]), **weight}

    return write_lines(run.paths.data(round_number), records())


async def _create(run: AnyRun, round_number: int, spec: RunSpec, ledger: Sequence[str]) -> AsyncRun:
    """The training run, new or found. One that the ledger knows to have ended badly, or whose model was deleted since,
    gives way to another attempt. Its name knows the data by the paths here, also where the service cannot read them and
    is sent the files."""
    said = [asdict(spec.base_model), spec.data_uri, spec.data_digest, spec.output_uri, _given(spec.hyperparameters)]
    name = f"{run.book.run_id}-r{round_number}-{digest_of([*said, *_special(spec), *ledger])[:12]}"
    attempt = 0
    while True:
        attempt += 1
        request = f"{name}-a{attempt}"
        # Before it is asked for: the service forgets what ended long ago, and would train that again, for nobody.
        if run.book.training_ended_badly(round_number, _run_of(request)):
            continue
        training = await _created(run, spec, request)
        # What was stopped for its template has not told the ledger so, and the template may be another one now.
        stopped = training.snapshot.state is RunState.CANCELLED and bool(_other_template(run, training.snapshot))
        badly = stopped or run.book.training_ended_badly(round_number, training.run_id)
        if not badly and not await _is_pruned(run, round_number, training):
            return training


def _run_of(request_id: str) -> str:
    """How the service calls the run of a request: see training.proto's Run."""
    return f"run-{hashlib.sha256(request_id.encode()).hexdigest()[:16]}"


async def _created(run: AnyRun, spec: RunSpec, request_id: str) -> AsyncRun:
    """The run of a request. What lies in its place in this run's own directory, of a run that the ledger knows nothing
    of any more, is removed."""
    try:
        return await run.client.training.create(spec, request_id, upload=True)
    except ServiceError as error:
        place = spec.output_uri
        if error.reason != _PLACE_TAKEN or is_remote(place) or not Path(place).is_relative_to(run.paths.out):
            raise
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    return await run.client.training.create(spec, request_id, upload=True)


async def _is_pruned(run: AnyRun, round_number: int, training: AsyncRun) -> bool:
    """Whether the model of a run that was through already was deleted: as only the last is kept, and the ledger has
    lost what it was for, or by somebody since the ledger was told of it. Only services can tell where they see other
    files than are seen here."""
    made = training.snapshot.result
    if made is None:
        return False
    if run.options.keep_models != "last":
        uri, is_known = made.model.uri, run.book.last_training_event(round_number, training.run_id) > 0
        if not is_known or is_remote(uri) or await asyncio.to_thread(Path(uri).is_dir):
            return False
    return not await _is_served(run, made.model)


async def _watch(run: AnyRun, stage: Stage, training: AsyncRun, at_pause: AtPause | None) -> None:
    """Follows the run to its end from the last event that the ledger has, and writes the events down."""
    waiting: list[RunEvent] = []
    committed = time.monotonic()

    def commit() -> None:
        nonlocal committed
        if waiting:
            progress = waiting[-1].run.progress
            note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            with run.book.transaction():
                run.book.add_training_events(stage.round, waiting)
                stage.advance(progress.step - stage.items_done, total=progress.total_steps, note=note)
            stage.show()
            waiting.clear()
        committed = time.monotonic()

    async def go_on() -> None:
        if at_pause is not None and training.snapshot.state is RunState.PAUSED:
            with stage.aside():
                await at_pause(training)

    async def follow(first: int) -> None:
        async with aclosing(training.watch(first)) as events:
            async for event in _until_stopped(events, run.stop):
                waiting.append(event)
                if said := _other_template(run, event.run):
                    await training.cancel()
                    raise StepFailed(said)
                if event.run.state is RunState.PAUSED:
                    commit()
                    await training.refresh()  # where the run has gone on since, the event is of the past
                    await go_on()
                if time.monotonic() - committed >= _EVENTS_EVERY:
                    commit()

    await go_on()  # the event that says so may have been written down by a process that was killed then
    try:
        await follow(run.book.last_training_event(stage.round, training.run_id) + 1)
    except PreconditionFailed as error:
        if error.reason != EVENTS_GONE:
            raise
        waiting.clear()
        with run.book.transaction():
            run.book.forget_training_events(stage.round, training.run_id)
        await follow(1)
    commit()
    if not training.snapshot.state.ended:
        run.stop_here()
        await training.refresh()


def _other_template(run: AnyRun, now: RunSnapshot) -> str:
    """What is wrong where training reads conversations otherwise than scoring did when the run began; empty: nothing,
    or it is not known yet."""
    base = run.book.model(0, "base")
    expected = None if base is None else base.detail.get("chat_template_digest")
    if expected is None or now.chat_template_digest in ("", expected):
        return ""
    return (
        f"The training service reads conversations by another chat template ({now.chat_template_digest}) than the"
        f" scoring service ({expected}); what is trained on would not be what is scored. Start both with the same"
        " settings (--chat-template) and run the same command again."
    )


async def _until_stopped(events: AsyncIterator[RunEvent], stop: asyncio.Event) -> AsyncIterator[RunEvent]:
    """The events, until there are no more or a stop is asked for. The training run itself goes on."""
    waiting: set[asyncio.Future[Any]] = {stopped := asyncio.ensure_future(stop.wait())}
    try:
        while True:
            waiting.add(following := asyncio.ensure_future(anext(events)))
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            waiting = {stopped}
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:  # whoever closes `events` must find nobody waiting for them
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _result(training: AsyncRun) -> RunResult:
    snapshot = training.snapshot
    if snapshot.state is RunState.SUCCEEDED and snapshot.result is not None:
        return snapshot.result
    why = snapshot.error.message if snapshot.error else f"it ended {snapshot.state.value}"
    raise StepFailed(
        f"Training run {training.run_id} did not make a model: {why}. Its log is with the training service; run the"
        " same command again: it trains this once more, from the checkpoint where the service kept one; everything else"
        " is kept."
    )
