"""What service tests say often: samples, and what a failed call says."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from burnish.api.common.v1 import common_pb2


def sample(sample_id: str, *contents: str, system: str | None = None) -> common_pb2.Sample:
    """A sample of user and assistant messages in turn, user first."""
    roles = [common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT]
    messages = [common_pb2.Message(role=roles[i % 2], content=text) for i, text in enumerate(contents)]
    if system is not None:
        messages.insert(0, common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content=system))
    return common_pb2.Sample(id=sample_id, messages=messages)


@dataclass(frozen=True)
class Failure:
    """A failed call as its client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    retryable: bool
    retry_after: float | None


async def failure_of(call: Awaitable[object]) -> Failure:
    """How the call fails; the test fails where it does not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    reason, retryable, retry_after = "", False, None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                assert info.domain == "burnish"
                reason, retryable = info.reason, info.metadata["retryable"] == "true"
            if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return Failure(error.code(), error.details() or "", reason, retryable, retry_after)
