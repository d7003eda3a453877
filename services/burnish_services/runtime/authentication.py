"""Who may call: where the server has a file of tokens, every call but a check of health shows one that allows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from burnish_services.runtime.calls import caller
from burnish_services.runtime.errors import ServiceError, abort_status
from burnish_services.runtime.health import CHECK
from burnish_services.runtime.reporting import CallReporter
from burnish_services.runtime.tokens import Tokens

_SCHEME = "bearer "

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Authentication(grpc.aio.ServerInterceptor):
    """Refuses calls without a token of `tokens` that allows them. `roles` are by full service name; of other services,
    such as reflection, any token may call anything. Checks of health are exempt unless `guard_health`; watches of it,
    which last, are not. What it refuses, `reporter` tells of: no other interceptor sees it."""

    def __init__(
        self, tokens: Tokens, roles: Mapping[str, str], reporter: CallReporter, *, guard_health: bool = False
    ) -> None:
        self._tokens = tokens
        self._roles = roles
        self._reporter = reporter
        self._exempt = frozenset() if guard_health else frozenset([CHECK])

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See ServerInterceptor."""
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if handler_call_details.method in self._exempt:
            return await continuation(handler_call_details)
        try:
            caller.set(self._checked(service, method, handler_call_details.invocation_metadata))
        except ServiceError as refusal:
            known = await continuation(handler_call_details) is not None
            return _refusing(self._report(refusal, handler_call_details, known=known))
        return await continuation(handler_call_details)

    def _report(self, refusal: ServiceError, details: grpc.HandlerCallDetails, *, known: bool) -> ServiceError:
        record = self._reporter.open(details.method, details.invocation_metadata, known=known)
        self._reporter.close(record, refusal.code, refusal.reason)
        return refusal

    def _checked(self, service: str, method: str, metadata: Any) -> str:
        """The name of the token. Raises ServiceError."""
        shown = next((value for key, value in metadata or () if key == "authorization"), "")
        if not isinstance(shown, str) or not shown.lower().startswith(_SCHEME):
            raise ServiceError(
                grpc.StatusCode.UNAUTHENTICATED,
                "TOKEN_MISSING",
                "this server asks for a token, and none was sent; expected metadata `authorization: Bearer TOKEN`"
                " (BURNISH_TOKEN, or token_file in burnish.toml)",
            )
        token = self._tokens.find(shown[len(_SCHEME) :].strip())
        if token is None:
            raise ServiceError(
                grpc.StatusCode.UNAUTHENTICATED,
                "TOKEN_UNKNOWN",
                "the token that was sent is none of this server's; it may have been taken out. Ask who runs the server",
            )
        role = self._roles.get(service)
        if role is not None and not token.allows(role, method):
            raise ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                "SCOPE_MISSING",
                f"token {token.name!r} is not good for {method} of the {role} service; it has the scopes"
                f" {', '.join(token.scopes)}",
            )
        return token.name


def _refusing(refusal: ServiceError) -> Any:
    """A handler of any kind of call, which answers with the refusal and asks for no message."""
    status = abort_status(refusal)

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        yield await context.abort(status.code, status.details, status.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)
