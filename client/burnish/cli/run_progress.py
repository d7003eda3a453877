"""A run as progress bars: one line per step, with rate and time left; plain lines where nobody watches."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import TaskID

from burnish.cli.output import errors, tell
from burnish.cli.progress import Bars
from burnish.coordinator.progress import Observer, StepProgress


class RunBars(Observer):
    """Draws a run on standard error."""

    def __init__(self, *, visible: bool = True) -> None:
        self._visible = visible
        self._bars = Bars(visible=visible)
        self._tasks: dict[tuple[int, str], TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
        """See Observer."""
        self._say(f"{'Going on with' if resumed else 'Beginning'} run {run_id} in {out_dir}")

    def step_started(self, step: StepProgress) -> None:
        """See Observer."""
        self._tasks[step.round, step.name] = self._bars.open(_label(step))
        self.step_advanced(step)

    def step_advanced(self, step: StepProgress) -> None:
        """See Observer."""
        task = self._tasks.get((step.round, step.name))
        if task is not None:
            self._bars.move(task, step.done, step.total, step.note)

    def step_finished(self, step: StepProgress) -> None:
        """See Observer."""
        self.step_advanced(step)
        if not errors.is_terminal:
            known = f", {step.reused} known already" if step.reused else ""
            self._say(f"{_label(step)}: {step.total} in {step.seconds:.1f} s{known}")

    def noted(self, text: str) -> None:
        """See Observer."""
        self._say(f"note: {text}")

    def _say(self, text: str) -> None:
        if self._visible:
            tell(text)


def _label(step: StepProgress) -> str:
    place = "start" if step.round == 0 else "last" if step.round > step.rounds else f"round {step.round}/{step.rounds}"
    return f"{place:10} {step.title}"
