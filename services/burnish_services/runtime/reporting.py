"""What is told of every call: one log line, its counts, its spans. Knows no domain.

None of it has the text of a sample: methods, codes, counts, times, and the ids that find a call again.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message

from burnish.api.common.v1 import common_pb2
from burnish_services.runtime.calls import OK, CallRecord, caller

if TYPE_CHECKING:
    from burnish_services.runtime.metrics import Metrics
    from burnish_services.runtime.tracing import Tracing

log = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]

REQUEST_ID = "x-request-id"
RUN_ID = "x-burnish-run"
# What may stand in a log line and in a label of ours; anything else that a caller sends as an id is dropped.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ITEM_STATUS: str = common_pb2.ItemStatus.DESCRIPTOR.full_name
# The service and the method of calls that are refused before anybody knows whether they exist: labels are few.
UNKNOWN = "unknown"


class CallReporter:
    """Opens the record of each call, and tells of it once it is over. `roles` are words by full service name."""

    def __init__(
        self, roles: Mapping[str, str], metrics: Metrics | None = None, tracing: Tracing | None = None
    ) -> None:
        self._roles = roles
        self._metrics = metrics
        self._tracing = tracing

    def open(self, path: str, metadata: Metadata | None, *, known: bool = True, is_stream: bool = False) -> CallRecord:
        """The record of a call to `/package.Service/Method`; not `known`: nobody offers that here."""
        service, _, method = path.removeprefix("/").partition("/")
        sent = {key: value for key, value in metadata or () if isinstance(value, str)}
        record = CallRecord(
            method=f"{service.rsplit('.', 1)[-1]}/{method}" if known else UNKNOWN,
            service=self._roles.get(service, UNKNOWN),
            request_id=_well_formed(sent.get(REQUEST_ID)) or uuid.uuid4().hex[:16],
            run=_well_formed(sent.get(RUN_ID)),
            is_stream=is_stream,
        )
        if self._tracing is not None:
            record.span = self._tracing.open(record, sent)
        return record

    def close(self, record: CallRecord, code: grpc.StatusCode, reason: str = "") -> None:
        """Tells of a call that is over; `reason` is the failure's stable word."""
        _log_call(record, code, reason)
        if self._metrics is not None:
            self._metrics.count(record, code.name, reason)
        if record.span is not None:
            record.span.close(record, code.name, reason)


def count_outcomes(reply: Message) -> Counter[str]:
    """How the items of a reply fared: `ok`, or the reason of their failure. Empty for a reply without items."""
    found: Counter[str] = Counter()
    for field, value in reply.ListFields():
        status = field.message_type.fields_by_name.get("status") if field.message_type is not None else None
        kind = status.message_type if status is not None else None
        if field.is_repeated and kind is not None and kind.full_name == _ITEM_STATUS:
            found.update(OK if not item.status.code else item.status.reason or UNKNOWN for item in value)
    return found


def ids_of(record: CallRecord) -> dict[str, str]:
    """What finds a call again, for a log line: the request, and the run and the trace where there are any."""
    trace = record.span.trace_id if record.span is not None else ""
    return {"request": record.request_id} | {k: v for k, v in (("run", record.run), ("trace", trace)) if v}


def _well_formed(sent: str | None) -> str:
    return sent if sent is not None and _ID.fullmatch(sent) else ""


def _log_call(record: CallRecord, code: grpc.StatusCode, reason: str) -> None:
    failed = code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
    log.log(
        logging.WARNING if failed else logging.INFO,
        "call",
        extra={
            "method": record.method,
            **ids_of(record),
            **({"caller": caller.get()} if caller.get() else {}),
            "code": code.name,
            **({"reason": reason} if reason else {}),
            "seconds": round(record.seconds, 4),
            "items": record.items,
            "failed_items": record.failed_items,
            "queue_seconds": round(record.queue_seconds, 4),
            "engine_seconds": round(record.engine_seconds, 4),
            "prompt_tokens": record.prompt_tokens,
            "generated_tokens": record.generated_tokens,
        },
    )
