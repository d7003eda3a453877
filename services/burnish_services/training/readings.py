"""What metrics show of training: runs by state, and the work that was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from burnish_services.runtime.readings import Reading
from burnish_services.training.runs import RunStore
from burnish_services.training.state import Progress, RunState


@dataclass(slots=True)
class Tally:
    """What has been worked since the server began. Work that is done again after a crash counts once. `furthest`: the
    steps and tokens that each run has come to."""

    steps: int = 0
    tokens: int = 0
    crashes: int = 0
    ended: Counter[RunState] = field(default_factory=Counter)
    furthest: dict[str, tuple[int, int]] = field(default_factory=dict)

    def advance(self, run_id: str, before: Progress, after: Progress) -> None:
        """A run went from `before` to `after`."""
        steps, tokens = self.furthest.get(run_id, (before.step, before.num_tokens))
        self.steps += max(0, after.step - steps)
        self.tokens += max(0, after.num_tokens - tokens)
        self.furthest[run_id] = max(steps, after.step), max(tokens, after.num_tokens)


def read_training(store: RunStore, tally: Tally) -> Iterator[Reading]:
    """Asked in another thread than the one in which runs go on."""
    snapshots = [run.snapshot for run in store.oldest_first()]
    states = Counter(snapshot.state for snapshot in snapshots)
    for state in RunState:
        yield Reading(
            "training_runs",
            "Runs that the server knows, earlier servers' included.",
            states[state],
            {"state": str(state)},
        )
    for state in RunState:
        if state.ended:
            ended = tally.ended[state]
            yield Reading("training_runs_ended", "Runs that have ended.", ended, {"state": str(state)}, "counter")
    yield Reading("training_steps", "Optimiser steps done.", tally.steps, kind="counter")
    yield Reading("training_tokens", "Tokens trained on, padding left out.", tally.tokens, kind="counter")
    yield Reading("training_worker_crashes", "Worker processes that died.", tally.crashes, kind="counter")
    worked = [snapshot.progress for snapshot in snapshots if snapshot.state is RunState.RUNNING]
    rate, device = sum(one.tokens_per_second or 0 for one in worked), sum(one.device_memory_bytes for one in worked)
    yield Reading("training_tokens_per_second", "Of the run at work, over its last steps.", rate)
    yield Reading("training_device_memory_bytes", "Device memory of the run at work; 0 on a CPU.", device)
