"""Fake services for tests of code that uses the SDK: real gRPC on a free port of this machine, no engine, no waiting.

    with FakeServices() as fakes, Client(fakes.endpoints) as client:
        fakes.fail_next("ScoreSamples", grpc.StatusCode.UNAVAILABLE)
        client.scoring.score(samples)        # retried, as with the real service
        assert len(fakes.requests("ScoreSamples")) == 2

Answers are deterministic functions of the content and the model's uri. They keep the contract of the protos (order,
ids, per-item status for empty responses), not the services' quality: for that, run the services on `--engine fake`.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import TracebackType
from typing import Any, Self

import grpc

from burnish._endpoints import Endpoints
from burnish._types import Limits
from burnish.api.embedding.v1 import embedding_pb2_grpc
from burnish.api.rewriting.v1 import rewriting_pb2_grpc
from burnish.api.scoring.v1 import scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2_grpc
from burnish.testing._embedding import FakeEmbedding
from burnish.testing._rewriting import FakeRewriting
from burnish.testing._scoring import FakeScoring
from burnish.testing._state import FakeState, error_details
from burnish.testing._training import FakeTraining

_DEFAULT_LIMITS = Limits(
    max_items=256, max_message_bytes=64 * 2**20, max_sequence_tokens=4096, max_concurrent_requests=64
)


class FakeServices:
    """All four services in this process, from entering the block to leaving it, or from `start` to `stop`.

    `limits` is what GetInfo states and the fakes enforce. `port` 0 takes a free one. `finish_runs` False leaves
    training runs RUNNING until they are cancelled or `finish_runs` is set to True.
    """

    def __init__(self, *, limits: Limits = _DEFAULT_LIMITS, port: int = 0, finish_runs: bool = True) -> None:
        self._state = FakeState(limits, finish_runs)
        self._record = _Recorder()
        self._port = port
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """Where the fakes are, host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def endpoints(self) -> Endpoints:
        """All four services at `address`."""
        return Endpoints.at(self.address)

    @property
    def finish_runs(self) -> bool:
        """Whether training runs end by themselves."""
        return self._state.finish_runs

    @finish_runs.setter
    def finish_runs(self, value: bool) -> None:
        with self._state.changed:
            self._state.finish_runs = value
            self._state.changed.notify_all()

    def start(self) -> Self:
        """Begins to serve; after `stop`, again at the same port and with the same collections and runs."""
        server = grpc.server(
            ThreadPoolExecutor(max_workers=16),
            interceptors=[self._record],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(FakeScoring(self._state), server)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(FakeEmbedding(self._state), server)
        rewriting_pb2_grpc.add_RewritingServiceServicer_to_server(FakeRewriting(self._state), server)
        training_pb2_grpc.add_TrainingServiceServicer_to_server(FakeTraining(self._state), server)
        self._port = server.add_insecure_port(self.address)
        server.start()
        self._state.open()
        self._server = server
        return self

    def stop(self) -> None:
        """Ends at once, as a crash would: calls in progress fail with UNAVAILABLE or CANCELLED."""
        if self._server is not None:
            self._state.close()
            self._server.stop(None).wait()
            self._server = None

    def requests(self, method: str) -> list[Any]:
        """The requests that came for an RPC (`ScoreSamples`), failed ones included, in order of arrival."""
        return list(self._record.requests[method])

    def fail_next(
        self,
        method: str,
        code: grpc.StatusCode,
        message: str = "made to fail",
        *,
        reason: str = "",
        retryable: bool = False,
        retry_after: float | None = None,
        times: int = 1,
    ) -> None:
        """Makes the next `times` calls of an RPC fail. With `reason`, as a Burnish server words it: with details,
        and a RetryInfo of `retry_after` seconds."""
        failure = _Failure(code, message, error_details(code, message, reason, retryable, retry_after))
        self._record.failures[method].extend([failure] * times)

    def change_reply(self, method: str, change: Callable[[Any], None]) -> None:
        """Passes every reply to an RPC through `change`, which alters it in place."""
        self._record.changes[method] = change

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Failure:
    def __init__(self, code: grpc.StatusCode, message: str, details: bytes | None) -> None:
        self.code = code
        self.message = message
        self.details = details

    def raise_in(self, context: grpc.ServicerContext) -> None:
        if self.details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
        context.abort(self.code, self.message)


class _Recorder(grpc.ServerInterceptor):
    """Keeps every request, and lets calls fail or replies change as told."""

    def __init__(self) -> None:
        self.requests: defaultdict[str, list[Any]] = defaultdict(list)
        self.failures: defaultdict[str, deque[_Failure]] = defaultdict(deque)
        self.changes: dict[str, Callable[[Any], None]] = {}
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        method = handler_call_details.method.rsplit("/", 1)[-1]
        if handler is None:
            return None
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._upstream(method, handler.stream_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        wrap = self._stream if handler.response_streaming else self._unary
        kind = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        return kind(wrap(method, inner), handler.request_deserializer, handler.response_serializer)

    def _note(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        with self._lock:
            self.requests[method].append(request)
            failure = self.failures[method].popleft() if self.failures[method] else None
        if failure is not None:
            failure.raise_in(context)

    def _upstream(self, method: str, inner: Any) -> Any:
        """A call with a stream of requests counts as one, of the first."""

        def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            first = next(requests)
            return self._unary(method, lambda _, context: inner(chain([first], requests), context))(first, context)

        return call

    def _unary(self, method: str, inner: Any) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            self._note(method, request, context)
            reply = inner(request, context)
            if method in self.changes:
                self.changes[method](reply)
            return reply

        return call

    def _stream(self, method: str, inner: Any) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._note(method, request, context)
            for reply in inner(request, context):
                if method in self.changes:
                    self.changes[method](reply)
                yield reply

        return call


__all__ = ["FakeServices"]
