"""Progress bars on standard error: items, rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from burnish.cli.output import errors

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """The rate of late, or of the whole task once it is done."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


class Bars:
    """A set of progress bars, one per step. Plain lines instead where standard error is no terminal."""

    def __init__(self, *, visible: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=errors,
            disable=not visible or not errors.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def over(self, name: str, parts: Iterable[T], *, total: int, size: Callable[[T], int]) -> Iterator[T]:
        """`parts`, with the bar `name` moved on by `size` of each once the next is asked for."""
        task = self._progress.add_task(name, total=total, note="")
        for part in parts:
            yield part
            self._progress.advance(task, size(part))

    def open(self, name: str) -> TaskID:
        """A bar whose length is not known yet."""
        return self._progress.add_task(name, total=None, note="")

    def move(self, task: TaskID, done: int, total: int, note: str = "") -> None:
        """Moves a bar to `done` of `total` (0: not known yet)."""
        self._progress.update(task, completed=done, total=total or None, note=note)
