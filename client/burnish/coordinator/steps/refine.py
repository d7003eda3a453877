"""Step `refine`: the rewrites that the decisions ask for, and the rows that follow from what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._types import ModelRef, ModelVersion, RewriteBatch, RewriteItem, Sample, Strategy
from burnish.coordinator.content import digest_of, sample_hash
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.findings import RewriteKey
from burnish.coordinator.formats import IdKind
from burnish.coordinator.policy.assembly import DataRow, RowIds, assemble, assemble_compat
from burnish.coordinator.policy.middo import Action, Decision
from burnish.coordinator.records import ModelRecord
from burnish.coordinator.steps.runs import MiddoRun
from burnish.coordinator.steps.stage import Stage, same_version, version_detail

_STRATEGIES = {
    Action.SIMPLIFY: Strategy.SIMPLIFY,
    Action.IMPROVE: Strategy.IMPROVE,
    Action.DIVERSIFY: Strategy.DIVERSIFY,
}


async def refine(
    run: MiddoRun, round_number: int, base: ModelRef, rows: Sequence[DataRow], decisions: Sequence[Decision]
) -> None:
    """Has every rewrite made that `decisions` ask for; what became of them is in the ledger."""
    stage = run.stage(round_number, "refine")
    if stage.done:
        return
    asked = [
        (row, decision, action)
        for row, decision in zip(rows, decisions, strict=True)
        for action in decision.actions
        if action is not Action.KEEP
    ]
    with stage.working():
        if asked:
            await _refine(run, stage, base, asked)


async def _refine(
    run: MiddoRun, stage: Stage, base: ModelRef, asked: Sequence[tuple[DataRow, Decision, Action]]
) -> None:
    settings, book = run.settings, run.book
    refiner = await refiner_model(run, base)
    version = await run.client.rewriting.load_model(refiner)
    prompts = (await run.client.rewriting.info()).prompt_versions
    sampling = settings.rewrite_sampling(stage.round)
    params = {"sampling": asdict(sampling), "attempts": settings.max_attempts, "rules": settings.rules.model_dump()}

    def key_of(row: DataRow, decision: Decision, action: Action) -> RewriteKey:
        hints = decision.hints if action is Action.DIVERSIFY else ()
        return RewriteKey(
            sample_hash=row.sample_hash,
            strategy=action.value,
            context_digest=digest_of(list(hints)) if hints else "",
            model_digest=version.digest,
            prompt_version=prompts[_STRATEGIES[action]],
            params_digest=digest_of(params),
        )

    keyed = [(row, decision, key_of(row, decision, action)) for row, decision, action in asked]
    hints = {key: decision.hints for _, decision, key in keyed if key.strategy == Action.DIVERSIFY.value}
    keys = list(dict.fromkeys(key for _, _, key in keyed))
    missing = book.findings.unwritten(keys)
    detail = {"model": version_detail(version), "prompts": dict(prompts), **params}
    stage.expect(len(keys), known=len(keys) - len(missing), detail=detail)
    with book.transaction():
        book.add_refinements(stage.round, [(row.row_id, key) for row, _, key in keyed])
    await _rewrite(run, stage, refiner, version, keys, hints)


async def refiner_model(run: MiddoRun, base: ModelRef) -> ModelRef:
    """The model that rewrites; its digest is what the rewriting service found when it was first used."""
    if not run.settings.refiner:
        return base
    record = run.book.model(0, "refiner")
    if record is None:
        version = await run.client.rewriting.load_model(ModelRef(run.settings.refiner))
        detail = version_detail(version)
        record = ModelRecord(0, "refiner", run.settings.refiner, version.digest, None, None, None, detail)
        with run.book.transaction():
            run.book.add_model(record)
    return ModelRef(record.uri, record.digest)


async def _rewrite(
    run: MiddoRun,
    stage: Stage,
    refiner: ModelRef,
    version: ModelVersion,
    keys: Sequence[RewriteKey],
    hints: Mapping[RewriteKey, tuple[str, ...]],
) -> None:
    """Has the rewrites made. Items are named by their key, so that seeds and order play no part."""
    settings, book = run.settings, run.book

    async def ask(strategy: Strategy, part: Sequence[RewriteKey]) -> tuple[Sequence[RewriteKey], RewriteBatch]:
        names = {name for key in part for name in (key.sample_hash, *hints.get(key, ()))}
        found = book.samples(names)
        items = [
            RewriteItem(
                Sample(digest_of(asdict(key)), found[key.sample_hash]),
                tuple(Sample(name, found[name]) for name in hints.get(key, ())),
            )
            for key in part
        ]
        return part, await run.client.rewriting.rewrite(
            items,
            strategy,
            model=refiner,
            sampling=settings.rewrite_sampling(stage.round),
            max_attempts=settings.max_attempts,
            rules=settings.rules.rules(),
        )

    async def send(batch: Sequence[RewriteKey]) -> list[tuple[Sequence[RewriteKey], RewriteBatch]]:
        # A request has one strategy. Its parts go out together: a strategy on its own, with hardly anything to do,
        # would leave the engine as good as idle for as long as a full one.
        parts = {s: [key for key in batch if key.strategy == action.value] for action, s in _STRATEGIES.items()}
        return await asyncio.gather(*(ask(strategy, part) for strategy, part in parts.items() if part))

    def store(batch: Sequence[RewriteKey], replies: Sequence[tuple[Sequence[RewriteKey], RewriteBatch]]) -> None:
        for part, reply in replies:
            same_version(version, reply.model, "rewriting")
            if part[0].prompt_version != reply.prompt_version:
                raise StepFailed(
                    f"The rewriting service used other prompts ({reply.prompt_version}) than it named before"
                    f" ({part[0].prompt_version}). Do all of its replicas run the same release?"
                )
            made = [rewrite.sample.messages if rewrite.sample else None for rewrite in reply.rewrites]
            names = [None if messages is None else sample_hash(messages) for messages in made]
            book.add_samples({n: m for n, m in zip(names, made, strict=True) if n is not None and m is not None})
            book.findings.add_rewrites(part, reply.rewrites, names)

    await stage.in_batches(lambda: book.findings.unwritten(keys), send, store)


def following_rows(
    run: MiddoRun, round_number: int, rows: Sequence[DataRow], decisions: Sequence[Decision]
) -> list[DataRow]:
    """What follows from D_t, the decisions, and what became of the rewrites. Raises StepFailed where nothing does."""
    book = run.book
    source = book.history().run.source
    assert source is not None
    outcomes = book.outcomes(round_number)
    # Of rows that have left, too: whose id is given again, nobody could tell apart.
    taken = {row.row_id for earlier in range(1, round_number + 1) for row in book.rows(earlier)}
    taken |= {one.row_id for earlier in range(1, round_number) for one in book.held(earlier)}
    ids = RowIds(taken, numbers=source["ids"] == IdKind.NUMBER.value)
    if run.settings.compat:
        keys = _compat_keys(run, round_number, rows)
        return assemble_compat(rows, decisions, outcomes, ids, round_number=round_number, keys=keys)
    tried = book.acceptance.of_round(round_number)
    outcomes |= {(one.row_id, Action(one.strategy)): None for one in tried if not one.accepted}
    gone = {one.row_id for one in tried if one.dropped}
    following = assemble(rows, decisions, outcomes, ids, round_number=round_number, gone=gone)
    if not following:
        raise StepFailed(
            f"Round {round_number}: every row was selected, and every rewrite refused, so that no row is left. Begin"
            " a run with another --out that selects fewer (--m-loss, --m-quality) or keeps such rows (--rejected keep)."
        )
    return following


def _compat_keys(run: MiddoRun, round_number: int, rows: Sequence[DataRow]) -> list[tuple[str, str]]:
    """The published code tells records apart by (instruction, output) alone. Where a row has no instruction of its
    own, its whole user text stands in."""
    columns = run.settings.columns
    instructions: dict[str, str] = {}
    history = run.book.history()
    for row_id, record in history.source_records():
        if isinstance(text := record.get(columns.instruction), str):
            instructions[row_id] = text
    keys = []
    for row, messages in history.conversations(round_number):
        sample = Sample(row.row_id, messages)
        own = instructions.get(row.row_id) if row.origin == "source" else None
        keys.append((sample.user_text if own is None else own, sample.response))
    return keys
