"""How a watch goes on when its stream ends: scripted streams, no server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from burnish._channel import ClientOptions, Connections, ServiceLink
from burnish._endpoints import Endpoints
from burnish._errors import MalformedReply
from burnish._training import AsyncTraining
from burnish.api.training.v1 import training_pb2 as pb

RUNNING, SUCCEEDED = pb.STATE_RUNNING, pb.STATE_SUCCEEDED


class Scripted(AsyncTraining):
    """Streams that give the events listed, then end; GetRun gives the states listed."""

    def __init__(self, streams: list[list[tuple[int, int]]], states: list[int]) -> None:
        super().__init__(
            ServiceLink("training", Endpoints.at("nowhere:1"), Connections(ClientOptions(initial_backoff=0.001)))
        )
        self._streams = iter(streams)
        self._states = iter(states)
        self.asked_from: list[int] = []
        self._stub = SimpleNamespace(WatchRun=None, GetRun=None)  # type: ignore[assignment]
        self._link.stream = self._stream  # type: ignore[assignment, method-assign]
        self._link.call = self._call  # type: ignore[assignment, method-assign]

    async def _stream(
        self, method: str, rpc: object, request: Callable[[], pb.WatchRunRequest]
    ) -> AsyncGenerator[pb.WatchRunResponse, None]:
        self.asked_from.append(request().from_event)
        for number, state in next(self._streams):
            reply = pb.WatchRunResponse(event=number, run=pb.Run(run_id="r", state=state))  # type: ignore[arg-type]
            reply.time.seconds = number
            yield reply

    async def _call(self, *given: object, **named: object) -> Any:
        return pb.GetRunResponse(run=pb.Run(run_id="r", state=next(self._states)))  # type: ignore[arg-type]


async def watched(training: Scripted, from_event: int = 1) -> list[int]:
    return [event.number async for event in training._watch("r", from_event)]


async def test_it_ends_with_the_run_s_last_event() -> None:
    training = Scripted([[(1, RUNNING), (2, SUCCEEDED), (3, SUCCEEDED)]], [])
    assert await watched(training) == [1, 2]


async def test_a_stream_that_ends_early_is_asked_for_the_rest() -> None:
    training = Scripted([[(1, RUNNING)], [], [(2, RUNNING), (3, SUCCEEDED)]], [RUNNING, RUNNING])
    assert await watched(training) == [1, 2, 3]
    assert training.asked_from == [1, 2, 2]


async def test_a_run_that_ended_in_between_is_asked_once_more() -> None:
    training = Scripted([[(1, RUNNING)], [(2, SUCCEEDED)]], [SUCCEEDED])
    assert await watched(training) == [1, 2]


async def test_as_long_as_events_come_more_are_asked_for() -> None:
    training = Scripted([[(1, RUNNING)], [(2, RUNNING)], [(3, SUCCEEDED)]], [SUCCEEDED, SUCCEEDED])
    assert await watched(training) == [1, 2, 3]


async def test_a_watch_from_beyond_the_end_is_empty() -> None:
    training = Scripted([[], []], [SUCCEEDED])
    assert await watched(training, 9) == []


@pytest.mark.parametrize("numbers", [(1, 3), (1, 1), (2, 3)])
async def test_gaps_and_repetitions_are_defects(numbers: tuple[int, ...]) -> None:
    training = Scripted([[(number, RUNNING) for number in numbers]], [])
    with pytest.raises(MalformedReply, match=r"event \d came where \d was expected"):
        await watched(training)
