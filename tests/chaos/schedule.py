"""What goes wrong when, as a plain value that follows from a seed.

A schedule lets one stretch of a run happen: from the end of one step to the end of the next, or the whole run. Where a
fault strikes is said as a share of what that stretch takes when nothing disturbs it (commits of the ledger, calls of
the engine, bytes on the wire), so that the value does not depend on the machine.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Whom a fault strikes, and in which ways. What the share is counted in: `Stretch`.
KINDS: dict[str, tuple[str, ...]] = {
    # In the process of the command, at a commit of its ledger: just before it or just after.
    "coordinator": ("killed before a commit", "killed after a commit", "interrupted", "disk full"),
    # In the process of the services, at a call of the engine.
    "services": ("killed", "terminated", "frozen", "disk full"),
    "engine": ("lost", "gone for good", "fails items"),
    # The process that trains, at one of its reports.
    "worker": ("killed",),
    # Between them: what the services send, and what the command sends, counted in bytes.
    "answers": ("reset", "half-closed", "stalled", "delayed", "throttled", "swallowed", "cut"),
    "requests": ("reset", "half-closed", "stalled", "delayed", "throttled", "swallowed", "cut"),
}
# Faults after which the command may end with an error, or at once, and has to be run again.
ENDING = {("coordinator", kind) for kind in KINDS["coordinator"]} | {
    ("services", "disk full"),
    ("engine", "fails items"),
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A step of an undisturbed run, and what it takes: how much each kind of fault can be timed by."""

    name: str
    commits: int
    engine_calls: int
    engine_items: int
    reports: int  # of training
    sent: int  # bytes of requests
    answered: int  # bytes of answers

    def size(self, whom: str) -> int:
        """How far such a fault can be put off."""
        sizes = {"coordinator": self.commits, "worker": self.reports, "answers": self.answered, "requests": self.sent}
        return sizes.get(whom, self.engine_calls)


@dataclass(frozen=True, slots=True)
class Fault:
    """`whom` it strikes, how (`kind`), and when: after the share `at` of the stretch. `strength`, in [0, 1], says how
    long or how much, where there is a choice."""

    whom: str
    kind: str
    at: float
    strength: float

    @property
    def may_end_the_command(self) -> bool:
        """Whether the command has to be run again after it, at least sometimes."""
        return (self.whom, self.kind) in ENDING

    def __str__(self) -> str:
        return f"{self.whom} {self.kind} at {self.at:.3f} ({self.strength:.2f})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Faults, in the order in which they are due, in a stretch of a recipe's run. `first` and `last` are numbers of
    stretches; the whole run from 0 to the last."""

    seed: int
    recipe: str
    first: int
    last: int
    faults: tuple[Fault, ...]

    def told(self, stretches: Sequence[Stretch]) -> str:
        """For people: what to repeat, and what it is."""
        where = stretches[self.first].name if self.first == self.last else "the whole run"
        return f"seed {self.seed}: {self.recipe}, {where}: {'; '.join(map(str, self.faults))}"


def merged(stretches: Sequence[Stretch]) -> Stretch:
    """Several stretches as one."""
    name = stretches[0].name if len(stretches) == 1 else "the whole run"
    numbers = [sum(getattr(stretch, field) for stretch in stretches) for field in Stretch.__slots__ if field != "name"]
    return Stretch(name, *numbers)


def scheduled(seed: int, courses: Mapping[str, Sequence[Stretch]], *, whole_every: int = 25) -> Schedule:
    """The schedule of a seed: recipes in turn; one in `whole_every` over a whole run, with more faults."""
    rng = random.Random(seed)
    recipe = sorted(courses)[seed % len(courses)]
    stretches = courses[recipe]
    whole = rng.randrange(whole_every) == 0
    if whole:
        first, last = 0, len(stretches) - 1
    else:
        # Training takes longest and says least: a process is started for it each time.
        weights = [0.4 if stretch.reports else 1.0 for stretch in stretches]
        (first,) = rng.choices(range(len(stretches)), weights)
        last = first
    stretch = merged(stretches[first : last + 1])
    possible = [whom for whom in KINDS if stretch.size(whom) > 0]
    count = rng.randint(3, 6) if whole else rng.choice((1, 1, 1, 1, 2, 3))
    faults = [_fault(rng, rng.choice(possible)) for _ in range(count)]
    return Schedule(seed, recipe, first, last, tuple(sorted(faults, key=lambda fault: fault.at)))


def _fault(rng: random.Random, whom: str) -> Fault:
    return Fault(whom, rng.choice(KINDS[whom]), round(rng.random(), 3), round(rng.random(), 2))
