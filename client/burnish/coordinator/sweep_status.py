"""How far a sweep is, by its plan and the status of each point: read while it goes on, without its ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.coordinator.ledger import lock_holder
from burnish.coordinator.progress import RunStatus, read_status
from burnish.coordinator.sweep import PLAN, Failure


@dataclass(frozen=True, slots=True)
class PointStatus:
    """How far a point of a sweep is. `state`: that of its run, `not begun`, or failed, also where it came to no run;
    `message`: why. `status` is its run's, None where there is none."""

    point: str
    run: Path
    state: str
    message: str
    status: RunStatus | None


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """How far a sweep is. `pid` is of the process that works on it: None where there is none, 0 where it is not known
    which."""

    pid: int | None
    points: tuple[PointStatus, ...]

    @property
    def at_work(self) -> bool:
        """Whether anybody works on the sweep or on a point of it."""
        return self.pid is not None or any(one.status is not None and one.status.at_work for one in self.points)


def read_sweep(out: Path) -> SweepStatus | None:
    """How far the sweep in `out` is, also while it goes on; None where none was begun there."""
    try:
        plan = json.loads((out / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    pid = lock_holder(out / PLAN)
    return SweepStatus(pid, tuple(_point_status(out, one, swept=pid is not None) for one in plan["points"]))


def _point_status(out: Path, planned: Mapping[str, Any], *, swept: bool) -> PointStatus:
    folder = out / planned["folder"]
    status = read_status(folder)
    state, message = ("not begun", "") if status is None else (status.state, status.message)
    failure = None if planned["failure"] is None else Failure(**planned["failure"])
    if failure is not None and (status is None or failure.at >= status.updated_at):
        state, message = "failed", failure.message
    elif state == "interrupted" and swept:  # its turn comes
        message = ""
    return PointStatus(planned["point"], folder, state, message, status)
