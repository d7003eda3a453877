"""Middo on one page: from the data set as it came to the polished one, and the model trained on it.

Symbols are the paper's: D_t is the data set of round t, M_t the base model fine-tuned on it; H, S and Q are the rows
that are too hard, sparse, and of low quality. What a step does is in `steps/`, what is decided in `policy/middo.py`.
Every step does only what the ledger lacks, so that a run may be killed at any moment and gone on with.
"""

from __future__ import annotations

from burnish._types import ModelRef
from burnish.coordinator.policy.middo import Axis, RowSignals
from burnish.coordinator.steps.accept import accept
from burnish.coordinator.steps.assemble import write_following
from burnish.coordinator.steps.decide import decide_round
from burnish.coordinator.steps.hold import hold_size
from burnish.coordinator.steps.measure import base_model, evaluate, judge, neighbors, score
from burnish.coordinator.steps.project import project_embedded
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.refine import following_rows, refine
from burnish.coordinator.steps.runs import MiddoRun
from burnish.coordinator.steps.train import prune, train


async def middo(run: MiddoRun) -> None:
    """All rounds, and the model trained on what they made."""
    await read(run)  # D_1
    base = await base_model(run)
    await evaluate(run, 0, base)
    for t in range(1, run.settings.rounds + 1):
        if not run.stage(t, "assemble").done:
            await polish(run, base, t)
        prune(run, t)
    last = run.settings.rounds + 1
    await evaluate(run, last, await train(run, last, base))


async def polish(run: MiddoRun, base: ModelRef, t: int) -> None:
    """One round: from D_t to D_{t+1}."""
    rows = run.book.rows(t)
    samples = list(dict.fromkeys(row.sample_hash for row in rows))  # duplicates share what is measured

    trained = await train(run, t, base)  # M_t; always from the base model
    await evaluate(run, t, trained)

    hard, sparse, low_quality = (axis in run.settings.axes for axis in (Axis.HARD, Axis.SPARSE, Axis.LOW_QUALITY))
    loss_pre = await score(run, t, "score_pre", base, samples) if hard else {}
    loss_post = await score(run, t, "score_post", trained, samples) if hard else {}
    near = await neighbors(run, t, trained, samples, run.settings.k) if sparse else {}
    if sparse:
        await project_embedded(run, t, samples)  # for the report alone
    ratings = await judge(run, t, trained, samples, run.settings.judge_sampling(t)) if low_quality else {}

    signals = [
        RowSignals(
            row.row_id,
            row.sample_hash,
            loss_pre.get(row.sample_hash),
            loss_post.get(row.sample_hash),
            near.get(row.sample_hash),
            ratings.get(row.sample_hash, {}),
        )
        for row in rows
    ]
    decisions = decide_round(run, t, signals)  # H, S and Q
    if run.settings.rewrites:
        await refine(run, t, base, rows, decisions)
    await accept(run, t, base, trained, decisions)
    following = await hold_size(run, t, base, following_rows(run, t, rows, decisions))
    stage = run.stage(t, "assemble")
    with stage.working():
        write_following(run, stage, rows, following)
