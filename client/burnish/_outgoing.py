"""What a call carries beside its request, so that it can be found again: an id, the run that it is for, and a trace."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from burnish._security import Metadata
from burnish._tracing import Span, client_span

_REQUEST_ID, _RUN_ID = "x-request-id", "x-burnish-run"  # as in burnish_services/runtime/reporting.py
_run: ContextVar[str] = ContextVar("burnish_run", default="")


@contextmanager
def working_on(run_id: str) -> Iterator[None]:
    """Has the calls within, and those of tasks begun within, say that they are made for this run."""
    token = _run.set(run_id)
    try:
        yield
    finally:
        _run.reset(token)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One call with all its attempts. `request_id` stands in the log lines of both sides."""

    span: Span
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def metadata(self) -> Metadata:
        """What each attempt sends along."""
        run = _run.get()
        return ((_REQUEST_ID, self.request_id), *(((_RUN_ID, run),) if run else ()), *self.span.headers().items())


@contextmanager
def outgoing(service: str, method: str, address: str) -> Iterator[Outgoing]:
    """A call to a service, from the first attempt to its end."""
    with client_span(service, method, address) as span:
        call = Outgoing(span)
        span.set("burnish.request_id", call.request_id)
        yield call
