"""What the fake services share: model versions, limits, what is stored, and made-up numbers. Private."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message as ProtoMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from numpy.typing import NDArray

from burnish._types import Limits
from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.training.v1 import training_pb2

Context = grpc.ServicerContext
PROMPT_DIGEST = "fa4e" * 4


@dataclass
class FakeState:
    """What the fakes remember across restarts."""

    limits: Limits
    finish_runs: bool
    digests: dict[str, str] = field(default_factory=dict)
    collections: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    collection_settings: dict[str, embedding_pb2.Collection] = field(default_factory=dict)
    calibrations: dict[str, embedding_pb2.Calibration] = field(default_factory=dict)
    measured: dict[str, set[str]] = field(default_factory=dict)  # ids, by calibration
    versions: dict[str, common_pb2.ModelVersion] = field(default_factory=dict)
    runs: dict[str, training_pb2.Run] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # by URI
    changed: threading.Condition = field(default_factory=threading.Condition)
    serving: bool = False

    def open(self) -> None:
        """Serving begins."""
        self.serving = True

    def close(self) -> None:
        """Serving ends; streams that wait are let go."""
        with self.changed:
            self.serving = False
            self.changed.notify_all()

    def info(self) -> common_pb2.ServerInfo:
        """What GetInfo says."""
        limits = common_pb2.Limits(
            max_items=self.limits.max_items,
            max_message_bytes=self.limits.max_message_bytes,
            max_sequence_tokens=self.limits.max_sequence_tokens,
            max_concurrent_requests=self.limits.max_concurrent_requests,
            max_tokens_in_flight=self.limits.max_tokens_in_flight,
            max_bytes_in_flight=self.limits.max_bytes_in_flight,
            max_concurrent_streams=self.limits.max_concurrent_streams,
        )
        return common_pb2.ServerInfo(
            version="0.0.0", engine="fake/0", model=self.version(common_pb2.ModelRef()), limits=limits
        )

    def version(self, model: common_pb2.ModelRef) -> common_pb2.ModelVersion:
        """The version that a reference names."""
        uri = model.uri or "fake://held"
        digest = self.digests.get(uri) or "sha256:" + hashlib.sha256(uri.encode()).hexdigest()
        return common_pb2.ModelVersion(
            uri=uri, digest=digest, engine="fake/0", dtype="float32", chat_template_digest="0" * 16
        )

    def serve(self, model: common_pb2.ModelRef, ids: list[str], context: Context) -> common_pb2.ModelVersion:
        """Checks what all batched calls check and returns the version that answers."""
        if not 0 < len(ids) <= self.limits.max_items:
            refuse(
                context, grpc.StatusCode.INVALID_ARGUMENT, f"{len(ids)} items; expected 1 to {self.limits.max_items}"
            )
        if len(set(ids)) < len(ids):
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "ids are not unique")
        version = self.version(model)
        if model.digest and model.digest != version.digest:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"the digest of {version.uri} is {version.digest}")
        return version


def refuse(context: Context, code: grpc.StatusCode, message: str, reason: str = "") -> NoReturn:
    details = error_details(code, message, reason, False, None)
    if details is not None:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(code, message)
    raise AssertionError("abort raises")


def error_details(
    code: grpc.StatusCode, message: str, reason: str, retryable: bool, retry_after: float | None
) -> bytes | None:
    """What a Burnish server says of a failure beside its text; None without a reason."""
    if not reason:
        return None
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain="burnish", metadata={"retryable": "true" if retryable else "false"}
    )
    parts: list[ProtoMessage] = [info]
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(retry_after * 1e6))
        parts.append(retry)
    status = status_pb2.Status(code=code.value[0], message=message)
    for part in parts:
        packed = AnyMessage()
        packed.Pack(part)
        status.details.append(packed)
    return bytes(status.SerializeToString())


def draw(*parts: str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def text_of(sample: common_pb2.Sample) -> str:
    return "\n".join(f"{message.role}:{message.content}" for message in sample.messages)


def failed(reason: str) -> common_pb2.ItemStatus:
    return common_pb2.ItemStatus(code=code_pb2.INVALID_ARGUMENT, reason=reason, message=f"made up: {reason}")
