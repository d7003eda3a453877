"""What a running call knows about itself: when it came, what it carries, where its time goes.

The interceptor opens a record for each call; handlers reach theirs by `current_call()` and note what the log
line and the reply's Timing should say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


class Budget(Protocol):
    """What a call's tokens are counted against; `admission.TokenBudget` is one."""

    def check(self, tokens: int) -> None:
        """Raises Overloaded where so many more are too many."""

    def holding(self, tokens: int) -> AbstractContextManager[None]:
        """Counts them as in progress for the block."""


class Span(Protocol):
    """A call as a trace has it; `tracing.CallSpan` is one."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    def close(self, record: CallRecord, code: str, reason: str) -> None:
        """Ends it with what the record knows by then."""


OK = "ok"
# The name of the token that the call at hand showed; empty where the server asks for none.
caller: ContextVar[str] = ContextVar("burnish_caller", default="")
# Stretches of engine work that a call remembers one by one; a call whose items take turns may have many.
_MOST_STRETCHES = 64


@dataclass(slots=True)
class CallRecord:
    """One call. Times are seconds of the monotonic clock.

    `service` is the service's word and `method` the RPC's name. `request_id` finds the call in the caller's log and in
    this server's, `run` is the run that the caller works on, empty where it works on none. `outcomes` counts the
    reply's items: `ok`, or the reason of their failure. `is_stream`: it answers for as long as somebody listens.
    """

    method: str
    budget: Budget | None = None
    service: str = ""
    request_id: str = ""
    run: str = ""
    is_stream: bool = False
    span: Span | None = None
    items: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    arrival: float = field(default_factory=time.monotonic)
    engine_seconds: float = 0.0
    swap_seconds: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    # When engine work began and ended, stretch by stretch.
    stretches: list[tuple[float, float]] = field(default_factory=list)
    _engine_entered: float | None = None
    _in_engine: int = 0
    _busy_since: float = 0.0
    _admitted: bool = False

    @contextmanager
    def admitted(self, prompt_tokens: int) -> Iterator[None]:
        """Counts so many tokens as in progress for the block, in which `in_engine` counts none: for calls that go to
        the engine item by item. Raises Overloaded where they are more than the service takes."""
        if self.budget is None:
            yield
            return
        self.budget.check(prompt_tokens)
        with self.budget.holding(prompt_tokens):
            self._admitted = True
            try:
                yield
            finally:
                self._admitted = False

    @contextmanager
    def in_engine(self, prompt_tokens: int) -> Iterator[None]:
        """Counts the time of the block as engine time, and its prompts' tokens. Blocks that overlap count once.

        Raises Overloaded where the call's first tokens are more than the service takes; once let in it is let finish.
        """
        budget = None if self._admitted else self.budget
        if budget is not None and self._engine_entered is None:
            budget.check(prompt_tokens)
        if not self._in_engine:
            self._busy_since = time.monotonic()
            self._engine_entered = self._engine_entered or self._busy_since
        self._in_engine += 1
        self.prompt_tokens += prompt_tokens
        try:
            with budget.holding(prompt_tokens) if budget is not None else nullcontext():
                yield
        finally:
            self._in_engine -= 1
            if not self._in_engine:
                now = time.monotonic()
                self.engine_seconds += now - self._busy_since
                if len(self.stretches) < _MOST_STRETCHES:
                    self.stretches.append((self._busy_since, now))

    @property
    def engine_entered(self) -> float | None:
        """When the first item entered the engine; None where none did."""
        return self._engine_entered

    @property
    def failed_items(self) -> int:
        """Items of the reply that have no result."""
        return self.outcomes.total() - self.outcomes[OK]

    @property
    def queue_seconds(self) -> float:
        """From arrival to the first item entering the engine; up to now where none did."""
        return (self._engine_entered or time.monotonic()) - self.arrival

    @property
    def seconds(self) -> float:
        """From arrival to now."""
        return time.monotonic() - self.arrival


_current: ContextVar[CallRecord] = ContextVar("burnish_call")


def open_call(record: CallRecord) -> None:
    """Makes `record` the current one of this task and its children."""
    _current.set(record)


def current_call() -> CallRecord:
    """The record of the call being handled; outside of any call, a fresh one that nobody reads."""
    record = _current.get(None)
    return record if record is not None else CallRecord(method="")
