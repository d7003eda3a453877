"""What every step of a run shares: its bookkeeping, its batches, and how it stops.

A `Stage` is one step of one round. Its batches are on the way several at a time, while results are committed as they
come, each together with the progress it made. Items whose failure may be retried are asked for again a few times before
the step ends; a stop that was asked for lets the batches on the way come in first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from burnish._client import AsyncClient
from burnish._tracing import span
from burnish._types import ModelVersion
from burnish.coordinator.book import RunBook
from burnish.coordinator.errors import Interrupted, LedgerError, StepFailed
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import Observer, RateMeter, StepProgress
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions
from burnish.coordinator.records import StepRecord

ItemT = TypeVar("ItemT")
SettingsT_co = TypeVar("SettingsT_co", bound=RecipeSettings, covariant=True)
ReplyT = TypeVar("ReplyT")

_RETRY_PAUSE = 0.5  # seconds before items with a retryable failure are asked for again; doubles
# By service, the steps that are noted with the model version of which it gave what was found.
_STEPS_OF = {
    "scoring": (
        *("score_pre", "score_post", "score_cross", "score_trusted", "score_rewrites", "probe", "evaluate"),
        *("judge", "judge_rewrites", "confidence", "compare"),
    ),
    "embedding": ("embed", "calibrate", "features"),
    "rewriting": ("refine", "propose", "respond"),
}
_SERVICE_OF = {step: service for service, steps in _STEPS_OF.items() for step in steps}


@dataclass(frozen=True, slots=True)
class RunContext(Generic[SettingsT_co]):
    """Everything that the steps of one run work with."""

    settings: SettingsT_co
    options: RunOptions
    client: AsyncClient
    book: RunBook
    paths: RunPaths
    observer: Observer
    stop: asyncio.Event

    def stage(self, round_number: int, name: str) -> Stage:
        """One step of one round, as the ledger knows it."""
        return Stage(self, round_number, name, self.book.step(round_number, name))

    def stop_here(self) -> None:
        """Raises Interrupted where a stop was asked for."""
        if self.stop.is_set():
            raise Interrupted(
                f"Stopped on request. Everything done so far is in {self.paths.ledger}; run the same command again, or"
                f" `burnish resume {_shown(self.paths.out)}`, and it goes on from there."
            )


AnyRun = RunContext[RecipeSettings]


class Stage:
    """One step of one round. `record` is None before it was begun."""

    def __init__(self, run: AnyRun, round_number: int, name: str, record: StepRecord | None) -> None:
        self.run = run
        self.round = round_number
        self.name = name
        self.record = record
        self._done = 0
        self._total = 0
        self._noted_at = 0.0
        self._seconds = 0.0
        self._rate = RateMeter()
        self._shown = StepProgress(round_number, run.settings.rounds, name, 0, 0, 0, 0.0)

    @property
    def done(self) -> bool:
        """True where the step was done before and nothing is left of it."""
        return self.record is not None and self.record.state == "done"

    @property
    def detail(self) -> Mapping[str, object]:
        """What a step that is done was keyed by."""
        assert self.record is not None
        return self.record.detail

    def words(self, name: str) -> dict[str, str]:
        """One entry of `detail` that maps words to words, such as what findings are keyed by."""
        value = self.detail[name]
        assert isinstance(value, dict)
        return value

    @property
    def items_done(self) -> int:
        """Items done so far."""
        return self._done

    @contextmanager
    def working(self) -> Iterator[None]:
        """The step's work, loading of models included. Notes its time, whatever comes."""
        self.run.stop_here()
        book = self.run.book
        with book.transaction():
            record = book.begin_step(self.round, self.run.settings.STEPS.index(self.name), self.name)
        self._done, self._total, self._seconds = record.done, record.total, record.seconds
        self._noted_at = time.monotonic()
        self._shown = replace(
            self._shown, done=record.done, total=record.total, reused=record.reused, seconds=record.seconds
        )
        self.run.observer.step_started(self._shown)
        try:
            with span(f"step {self.name}", {"burnish.round": self.round, "burnish.run_id": book.run_id}) as seen:
                yield
                seen.set("burnish.items", self._done)
        except Interrupted:
            raise
        except Exception:
            with suppress(LedgerError), book.transaction():  # the ledger itself may be what failed
                book.end_step(self.round, self.name, "failed", self._lap())
            raise
        with book.transaction():
            book.end_step(self.round, self.name, "done", self._lap())
        self.run.observer.step_finished(replace(self._shown, seconds=self._seconds))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While other steps work in the midst of this one: their time is not this one's."""
        with self.run.book.transaction():
            self.advance(0)
        try:
            yield
        finally:
            self._noted_at = time.monotonic()

    def expect(self, total: int, *, known: int = 0, detail: Mapping[str, object] | None = None) -> None:
        """Says how many items the step has, and how many of them the ledger knows already. The first time, these count
        as reused. `detail` is what the findings are keyed by. Raises StepFailed where the service computes otherwise
        than when the run began."""
        if detail and "model" in detail:
            expect_as_before(self.run, _SERVICE_OF[self.name], version_from(detail))
        with self.run.book.transaction():
            self.expect_within(total, known=known, detail=detail)
        self.show()

    def expect_within(self, total: int, *, known: int = 0, detail: Mapping[str, object] | None = None) -> None:
        """As `expect`, as part of a transaction."""
        first = self.record is None or not self.record.total
        reused = known if first else self._shown.reused
        self.run.book.plan_step(self.round, self.name, total=total, done=known, reused=reused, detail=detail or {})
        self._done, self._total = known, total
        self._shown = replace(self._shown, done=known, total=total, reused=reused, rate=self._rate.mark(known))

    def advance(self, count: int, *, total: int | None = None, note: str = "") -> None:
        """Notes `count` more items done; part of the transaction that commits them."""
        self._done += count
        self._total = self._total if total is None else total
        self.run.book.advance_step(self.round, self.name, done=self._done, total=self._total, seconds=self._lap())
        self._shown = replace(
            self._shown,
            done=self._done,
            total=self._total,
            seconds=self._seconds,
            rate=self._rate.mark(self._done),
            note=note,
        )

    def note(self, detail: Mapping[str, object]) -> None:
        """Adds to `detail` what the work showed, as part of a transaction."""
        self.run.book.note_step(self.round, self.name, detail)

    def show(self) -> None:
        """Tells the observer what was noted, once it is committed."""
        self.run.observer.step_advanced(self._shown)

    async def in_batches(
        self,
        missing: Callable[[], Sequence[ItemT]],
        send: Callable[[Sequence[ItemT]], Awaitable[ReplyT]],
        store: Callable[[Sequence[ItemT], ReplyT], None],
    ) -> None:
        """Asks for all items that `missing()` names, in batches, and stores every reply in a transaction of its own;
        then again for those that are still missing because of retryable failures."""
        items = missing()
        await self._pass(items, send, store, counting=True)
        for attempt in range(self.run.options.retries):
            again = missing()
            if not again:
                return
            self.run.observer.noted(f"{self.name}: asking again for {len(again)} items that failed for the moment.")
            await asyncio.sleep(_RETRY_PAUSE * 2**attempt)
            await self._pass(again, send, store, counting=False)

    async def _pass(
        self,
        items: Sequence[ItemT],
        send: Callable[[Sequence[ItemT]], Awaitable[ReplyT]],
        store: Callable[[Sequence[ItemT], ReplyT], None],
        *,
        counting: bool,
    ) -> None:
        size = self.run.options.batch_size
        batches = (items[start : start + size] for start in range(0, len(items), size))
        on_the_way: dict[asyncio.Future[ReplyT], Sequence[ItemT]] = {}
        try:
            while True:
                while len(on_the_way) < self.run.options.max_in_flight and not self.run.stop.is_set():
                    batch = next(batches, None)
                    if batch is None:
                        break
                    on_the_way[asyncio.ensure_future(send(batch))] = batch
                if not on_the_way:
                    break
                # Whichever is there first: one that takes long keeps no other waiting.
                done, _ = await asyncio.wait(on_the_way, return_when=asyncio.FIRST_COMPLETED)
                # What was paid for is kept before anything that failed beside it ends this.
                for reply in sorted((one for one in on_the_way if one in done), key=_failed):
                    batch = on_the_way.pop(reply)
                    result = reply.result()
                    with self.run.book.transaction():
                        store(batch, result)
                        self.advance(len(batch) if counting else 0)
                    self.show()
        finally:
            for reply in on_the_way:
                reply.cancel()
            await asyncio.gather(*on_the_way, return_exceptions=True)
        if next(batches, None) is not None:
            self.run.stop_here()

    def _lap(self) -> float:
        """Seconds of work since it was last asked."""
        now = time.monotonic()
        lap, self._noted_at = now - self._noted_at, now
        self._seconds += lap
        return lap


def _failed(reply: asyncio.Future[Any]) -> bool:
    return reply.cancelled() or reply.exception() is not None


def same_version(asked: ModelVersion, got: ModelVersion, service: str) -> None:
    """Raises StepFailed where a reply was made by other weights than asked for, or by them under another chat template,
    engine or number format: findings of one step are never mixed."""
    before, now = ((one.digest, one.engine, one.dtype, f"template {one.chat_template_digest}") for one in (asked, got))
    if before != now:
        raise StepFailed(
            f"The {service} service answered with other weights or in another way than when this step began"
            f" ({', '.join(now)}; expected {', '.join(before)}). Let all of its replicas run the same release with the"
            " same settings, and run the same command again."
        )


def expect_as_before(run: AnyRun, service: str, now: ModelVersion) -> None:
    """Raises StepFailed where a service has another engine or number format than by which something was found in this
    run, or in another one of its ledger under the same weights: findings are kept by weights and template, so that one
    step's would be of both. Tells of another version of the same engine. Each service is compared with itself; all
    models of a run that it computes come from one base model, which lends them its format."""
    before = run.book.said_before(_STEPS_OF[service], now.digest)
    if not before:
        return
    if _computed(now) != _computed(before[0]):
        raise StepFailed(_computes_otherwise(service, before[0], now))
    if all(one.engine != now.engine for one in before):
        run.observer.noted(
            f"The {service} service runs on {now.engine} now, and ran on {before[-1].engine} before. What it measures"
            " from here on may differ in the last digits; begin a new run where that matters."
        )


def _computed(version: ModelVersion) -> tuple[str, str]:
    """What numbers depend on beside the weights and the template: engine and number format."""
    return version.engine.partition("/")[0], version.dtype


def _computes_otherwise(service: str, before: ModelVersion, now: ModelVersion) -> str:
    engine, dtype = _computed(before)
    said = (
        f"The {service} service computes otherwise than when this run, or another one of its ledger, began"
        f" ({', '.join(_computed(now))}; expected {engine}, {dtype}). What it would measure does not go together with"
        f" what is in the ledger. Start it, all of its replicas, with --engine {engine} --dtype {dtype} as before and"
        " run the same command again, or begin a new run (another --out)."
    )
    if dtype != now.dtype:
        said += (
            " Without --dtype (auto), the format goes by the machine: float32 on a CPU that has no instructions for"
            " bfloat16, elsewhere the model's own."
        )
    return said


def same_prompts(asked: str, got: str, service: str) -> None:
    """Raises StepFailed where a reply was made with other prompts than the service named before."""
    if asked != got:
        raise StepFailed(
            f"The {service} service used other prompts ({got}) than it named before ({asked}). Do all of its replicas"
            " run the same release?"
        )


def version_detail(version: ModelVersion) -> dict[str, object]:
    """A model version as a step's detail holds it."""
    return {
        "uri": version.uri,
        "digest": version.digest,
        "engine": version.engine,
        "dtype": version.dtype,
        "chat_template_digest": version.chat_template_digest,
    }


def version_from(detail: Mapping[str, object]) -> ModelVersion:
    """The model version that `version_detail` wrote."""
    model = detail["model"]
    assert isinstance(model, dict)
    return ModelVersion(**model)


def _shown(path: Path) -> Path:
    """A path as short as it can be said."""
    cwd = Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path
