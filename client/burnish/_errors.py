"""The errors that Burnish raises on purpose, and the one table that turns gRPC status codes into them.

    BurnishError                   exit code 1
    ├── UsageError                 2   wrong arguments; nothing was sent (also a ValueError)
    │   └── SettingsError          2   burnish.toml, BURNISH_... or a flag is wrong
    ├── StartFailed                3   a service on this machine did not start
    │   └── NotInstalled           3   ... because what it needs is not installed
    ├── RunFailed                  1   a training run ended FAILED or CANCELLED
    └── ServiceError               1   a call failed as a whole
        ├── Unreachable            3   UNAVAILABLE
        ├── InvalidRequest             INVALID_ARGUMENT, OUT_OF_RANGE
        ├── NotFound                   NOT_FOUND
        ├── AlreadyExists              ALREADY_EXISTS
        ├── PreconditionFailed         FAILED_PRECONDITION
        ├── Overloaded                 RESOURCE_EXHAUSTED
        │   └── MessageTooLarge        RESOURCE_EXHAUSTED, for a message over the size limit
        ├── DeadlineExceeded           DEADLINE_EXCEEDED
        ├── CallCancelled              CANCELLED
        ├── Conflict                   ABORTED
        ├── AccessDenied               PERMISSION_DENIED, UNAUTHENTICATED
        ├── Unsupported                UNIMPLEMENTED
        ├── ServiceFault               INTERNAL, UNKNOWN, DATA_LOSS, and OK with an error
        ├── MalformedReply             (a reply that breaks the contract)
        └── VersionMismatch            (parts of one batch answered by different weights or prompts)

Every message says which service, at which address, what was wrong and what to do. A failed item of a batch is not an
exception but an ItemStatus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import grpc

if TYPE_CHECKING:
    from burnish._types import RunSnapshot


class BurnishError(Exception):
    """Anything that Burnish raises on purpose. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class UsageError(BurnishError, ValueError):
    """An argument is wrong; nothing was sent to any service."""

    exit_code = 2


class SettingsError(UsageError):
    """The configuration (flags, environment or burnish.toml) is wrong or incomplete."""


class StartFailed(BurnishError):
    """A service on this machine did not start; the message ends with the last lines of its log."""

    exit_code = 3


class NotInstalled(StartFailed):
    """What the services need is not installed; the message says what to install."""


class RunFailed(BurnishError):
    """A training run ended without a result; `run` is its last snapshot."""

    def __init__(self, message: str, run: RunSnapshot) -> None:
        super().__init__(message)
        self.run = run


class ServiceError(BurnishError):
    """A call to a service failed as a whole.

    `service` is the service's word (`scoring`), `address` where it was called, `code` the status code, `reason` the
    stable upper-case word that the server gave (empty if none), `retryable` whether the same call may succeed later,
    `request_id` what the server's log has of the call (empty where it was not sent).
    """

    def __init__(
        self,
        message: str,
        *,
        service: str,
        address: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        retryable: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.service = service
        self.address = address
        self.code = code
        self.reason = reason
        self.retryable = retryable
        self.request_id = request_id


class Unreachable(ServiceError):
    """The service does not answer, or says that it cannot now."""

    exit_code = 3


class InvalidRequest(ServiceError):
    """The request itself is wrong, whatever the service's state."""


class NotFound(ServiceError):
    """A model, collection, run or file that the request names does not exist."""


class AlreadyExists(ServiceError):
    """What the request would create exists and is not the same."""


class PreconditionFailed(ServiceError):
    """The state of the service, or of what the request names, does not allow the call (digest mismatch, canary)."""


class Overloaded(ServiceError):
    """The service takes on no more at the moment, and did not until the deadline."""


class MessageTooLarge(Overloaded):
    """A request or reply is larger than one side accepts."""


class DeadlineExceeded(ServiceError):
    """The service did not answer in the time allowed."""


class CallCancelled(ServiceError):
    """The service or the connection cancelled the call."""


class Conflict(ServiceError):
    """The call met another one and was aborted."""


class AccessDenied(ServiceError):
    """Something between here and the service refuses the caller."""


class Unsupported(ServiceError):
    """The server at this address does not offer this call."""


class ServiceFault(ServiceError):
    """A defect in the service; its log says more."""


class MalformedReply(ServiceError):
    """The reply breaks the contract: wrong number of results, unknown words, torn arrays."""


class VersionMismatch(ServiceError):
    """Parts of one batch were answered by different weights, engines or prompts, and are not joined."""


ERRORS_BY_CODE: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.OK: ServiceFault,
    grpc.StatusCode.CANCELLED: CallCancelled,
    grpc.StatusCode.UNKNOWN: ServiceFault,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.INTERNAL: ServiceFault,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DATA_LOSS: ServiceFault,
}
