"""Reads a failed call's status and words it as one of our errors. Decides nothing about retries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from burnish._errors import ERRORS_BY_CODE, MessageTooLarge, ServiceError, ServiceFault

_DETAILS_KEY = "grpc-status-details-bin"
# What gRPC itself says, in any of its languages, of a message over the limit of either side.
_TOO_LARGE = "larger than max"
_CONNECTION_TROUBLE = (
    "failed to connect",
    "connections to all backends failing",
    "DNS resolution failed",
    "empty address list",
)


@dataclass(frozen=True, slots=True)
class CallStatus:
    """How a call failed: gRPC's code and text, and the google.rpc details where the server gave any.

    `from_server` is True where a Burnish server wrote the status itself; `retry_after` is in seconds.
    """

    code: grpc.StatusCode
    text: str
    reason: str = ""
    retryable: bool = False
    retry_after: float | None = None
    from_server: bool = False

    @property
    def away(self) -> bool:
        """True where the service is away, or went away under the call: a server that stops before it has answered ends
        its calls as CANCELLED, which is then nobody's wish."""
        cut_off = self.code is grpc.StatusCode.CANCELLED and not self.from_server
        return cut_off or self.code is grpc.StatusCode.UNAVAILABLE

    @property
    def too_large(self) -> bool:
        """True where a message went over a size limit, so that smaller batches may pass."""
        return self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in self.text


def read_status(error: grpc.aio.AioRpcError) -> CallStatus:
    """The status of a failed call. Details that cannot be read count as absent."""
    code, text = error.code(), error.details() or ""
    reason, retryable, retry_after, from_server = "", False, None, False
    for detail in _details(error.trailing_metadata()):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, from_server = info.reason, True
            retryable = info.metadata.get("retryable", "") == "true"
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retryable, retry_after = True, retry.retry_delay.ToTimedelta().total_seconds()
    return CallStatus(code, text, reason, retryable, retry_after, from_server)


def _details(
    metadata: Iterable[tuple[str, str | bytes]] | None,
) -> list[status_pb2.google_dot_protobuf_dot_any__pb2.Any]:
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except ValueError:  # DecodeError: somebody else's details
                return []
    return []


def service_error(
    status: CallStatus, *, service: str, address: str, method: str, timeout: float | None, request_id: str = ""
) -> ServiceError:
    """The error that a failed call becomes. `timeout` is the deadline that the call had, in seconds; `request_id` the
    id that it was sent with."""
    kind = MessageTooLarge if status.too_large else ERRORS_BY_CODE.get(status.code, ServiceFault)
    return kind(
        _message(status, service, address, method, timeout, request_id),
        service=service,
        address=address,
        code=status.code,
        reason=status.reason,
        retryable=status.retryable or status.code is grpc.StatusCode.UNAVAILABLE,
        request_id=request_id,
    )


def _message(
    status: CallStatus, service: str, address: str, method: str, timeout: float | None, request_id: str
) -> str:
    who = f"{service} service at {address}"
    text = status.text.strip() or "no explanation given"
    code = grpc.StatusCode
    if status.code is code.UNAVAILABLE and not status.from_server:
        return (
            f"{who} does not answer ({brief(text)}). Start it with `burnish up --roles {service}` "
            f"or pass --{service}-endpoint"
        )
    if status.code is code.DEADLINE_EXCEEDED and not status.from_server:
        allowed = "the time allowed" if timeout is None else f"{timeout:g} s"
        return f"{who} did not answer {method} within {allowed}. Pass a longer timeout or send fewer items at a time"
    if status.code is code.UNIMPLEMENTED and not status.from_server:
        return (
            f"{who} does not offer {method} ({text}). Either the server there runs other roles (start it with "
            f"--roles {service}), or it is older than this client"
        )
    if status.too_large:
        return (
            f"{who}: {method} went over a message size limit ({text}). Send fewer or shorter items at a time, or "
            "raise max_message_bytes on the side that the text names"
        )
    label = status.code.name + (f", {status.reason}" if status.reason else "")
    hint = ""
    if status.code in (code.INTERNAL, code.UNKNOWN, code.DATA_LOSS, code.OK):
        found = f" under request {request_id}" if request_id else ""
        hint = f". This is a defect in the service, not in the request; its log says more{found}"
    elif status.code is code.RESOURCE_EXHAUSTED and (status.retryable or not status.from_server):
        hint = ". Send fewer requests at a time, or allow a longer timeout"
    return f"{who}: {text.rstrip('.') if hint else text}{hint} [{label}]"


def brief(text: str) -> str:
    """gRPC's connection errors, shortened to their cause (`Connection refused (111)`)."""
    if text.startswith(_CONNECTION_TROUBLE):
        return text.rsplit(": ", 1)[-1]
    return text
