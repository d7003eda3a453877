"""The errors that a server answers with, and the one table that turns any exception into a gRPC status.

    ServiceError                    status                retryable unless said otherwise
    ├── InvalidRequest              INVALID_ARGUMENT      no
    ├── NotFound                    NOT_FOUND             no
    ├── AlreadyExists               ALREADY_EXISTS        no
    ├── PermissionDenied            PERMISSION_DENIED     no
    ├── PreconditionFailed          FAILED_PRECONDITION   no
    ├── DiskFull                    RESOURCE_EXHAUSTED    no
    ├── Overloaded                  RESOURCE_EXHAUSTED    yes, after `retry_after` seconds
    ├── Unavailable                 UNAVAILABLE           yes, elsewhere or later
    └── InternalError               INTERNAL              no

Every status carries a google.rpc.ErrorInfo with domain `burnish`, the reason (a stable word for machines) and
`retryable` in its metadata; a google.rpc.BadRequest names the field that is wrong, and a google.rpc.RetryInfo says
when to come back, where there is one. Any other exception is a defect: it becomes INTERNAL with a short id that finds
its traceback in the server's log. What became of one item of a batch is not an exception but an ItemStatus.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from burnish.api.common.v1 import common_pb2
from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    EngineRestarting,
    ModelLoadError,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnreachable,
)
from burnish_services.runtime.disks import is_disk_full

DOMAIN = "burnish"
# What a message may take in a call's trailers, where it stands twice: clients refuse trailers at random from 8 KiB on.
_MAX_MESSAGE_BYTES = 2000
_MAX_DESCRIPTION_BYTES = 300  # of the same words once more, beside the field that they are about


class ServiceError(Exception):
    """A call failed as a whole, for a reason its caller can act on.

    `reason` is a stable upper-case word; the message says what was wrong, what was expected and what to do;
    `retryable` says whether the same call may succeed later; `retry_after` is in seconds; `field` names the field of
    the request that is wrong, as the message does, where it is one.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.field = field


class InvalidRequest(ServiceError):
    """The request itself is wrong, whatever the server's state."""

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)


class NotFound(ServiceError):
    """Something the request names does not exist."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(grpc.StatusCode.NOT_FOUND, reason, message)


class AlreadyExists(ServiceError):
    """Something the request would create exists, and is not the same."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(grpc.StatusCode.ALREADY_EXISTS, reason, message)


class PermissionDenied(ServiceError):
    """The caller may not have what it asks for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(grpc.StatusCode.PERMISSION_DENIED, reason, message)


class PreconditionFailed(ServiceError):
    """The state of the server or of what the request names does not allow the call."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(grpc.StatusCode.FAILED_PRECONDITION, reason, message)


class Overloaded(ServiceError):
    """More is asked than the server takes on at a time."""

    def __init__(self, reason: str, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message, retryable=True, retry_after=retry_after)


class ReplyTooLarge(ServiceError):
    """A reply of `size` bytes, where a message may have `limit`; in the words by which clients know to ask for less.
    gRPC would say the same, but log it as an error of its core."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "REPLY_TOO_LARGE",
            f"the reply is larger than max ({size} vs. {limit} bytes); ask for less at a time, or raise"
            " --max-message-bytes of the server and max_message_bytes of the client",
        )


class DiskFull(ServiceError):
    """Nothing more can be written. What was there before the call is unchanged."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "DISK_FULL",
            f"the server's disk is full, or over its quota, and nothing of the call was kept ({cause}); make room below"
            " its --state-dir and send the call again",
        )


class Unavailable(ServiceError):
    """The server starts, stops, has lost its engine, or cannot reach a store that it needs; another replica, or this
    one later, may answer."""

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, reason, message, retryable=True, retry_after=retry_after)


class InternalError(ServiceError):
    """A defect of ours. `error_id` stands in the message and beside the traceback in the log."""

    def __init__(self, error_id: str) -> None:
        super().__init__(
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            f"unexpected error in the server; its log has the details under id {error_id}",
        )
        self.error_id = error_id


def service_error(error: Exception) -> ServiceError:
    """The ServiceError that stands for any exception. An exception with an upper-case `reason` that the
    engine layer raises on purpose keeps it; what nobody expected becomes an InternalError with a new id."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, EngineDead):
        return Unavailable("ENGINE_DEAD", f"the engine has died ({error}); this server stops, ask another replica")
    if isinstance(error, EngineRestarting):
        return Unavailable("ENGINE_RESTARTING", str(error), retry_after=1.0)
    if isinstance(error, ModelNotAllowed):
        return PermissionDenied(error.reason, str(error))
    if isinstance(error, ModelNotFound):
        return NotFound(error.reason, str(error))
    if isinstance(error, ModelUnreachable):
        return Unavailable(error.reason, str(error), retry_after=5.0)
    if isinstance(error, ModelLoadError):
        return PreconditionFailed(error.reason, str(error))
    if is_disk_full(error):
        return DiskFull(str(error))
    return InternalError(uuid.uuid4().hex[:12])


@dataclass(frozen=True, slots=True)
class AbortStatus:
    """The pieces that `context.abort` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def abort_status(error: ServiceError) -> AbortStatus:
    """The wire form of an error: code, message, shortened where it quotes too much, and google.rpc details in
    `grpc-status-details-bin`."""
    message = _shortened(error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"retryable": "true" if error.retryable else "false"}
    )
    status = status_pb2.Status(code=error.code.value[0], message=message)
    status.details.append(_packed(info))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(max(0, round(error.retry_after * 1000)))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=_shortened(error.message, _MAX_DESCRIPTION_BYTES)
        )
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return AbortStatus(error.code, message, (("grpc-status-details-bin", status.SerializeToString()),))


def _shortened(message: str, max_bytes: int = _MAX_MESSAGE_BYTES) -> str:
    """The message without its middle, where it is longer than fits: what was expected stands at the end."""
    # Lone surrogates have no place on the wire at all.
    message = message.encode(errors="replace").decode()
    sizes = [1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode()) for c in message]  # percent-encoded
    if sum(sizes) <= max_bytes:
        return message
    half = max_bytes // 2
    begin = sum(1 for total in itertools.accumulate(sizes) if total <= half)
    end = sum(1 for total in itertools.accumulate(reversed(sizes)) if total <= half)
    return f"{message[:begin]} … {message[-end:]}"


def _packed(
    message: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo,
) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


# Which google.rpc.Code an item's reason stands for; a reason not listed here is a defect of the item's
# server.
ITEM_CODES: dict[str, int] = {
    "EMPTY_RESPONSE": code_pb2.INVALID_ARGUMENT,
    "EMPTY_PROMPT": code_pb2.INVALID_ARGUMENT,
    "BAD_ROLES": code_pb2.INVALID_ARGUMENT,
    "TEMPLATE_FAILED": code_pb2.INVALID_ARGUMENT,
    "TOO_LONG": code_pb2.INVALID_ARGUMENT,
    "TOO_SHORT": code_pb2.INVALID_ARGUMENT,
    "EMPTY": code_pb2.INVALID_ARGUMENT,
    "BAD_TOKEN": code_pb2.INVALID_ARGUMENT,
    "NOT_FINITE": code_pb2.DATA_LOSS,
    "UNSUPPORTED": code_pb2.FAILED_PRECONDITION,
    "NO_TOKEN": code_pb2.FAILED_PRECONDITION,
    "UNPARSEABLE": code_pb2.ABORTED,
    "LETTERS_UNLIKELY": code_pb2.ABORTED,
    "NOTHING_TO_GO_BY": code_pb2.ABORTED,
    "REJECTED": code_pb2.ABORTED,
}


def item_status(failure: EngineFailure) -> common_pb2.ItemStatus:
    """The status of a failed item; its code follows from the reason (`ITEM_CODES`, else INTERNAL)."""
    code = ITEM_CODES.get(failure.reason, code_pb2.INTERNAL)
    return common_pb2.ItemStatus(code=code, reason=failure.reason, message=failure.message, retryable=failure.retryable)
