"""A server that stops under a call: whoever called gets the answer from the server that comes after it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from burnish import AsyncClient, ClientOptions, Endpoints, Message, Role, Sample
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake.engine import FakeEngine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running

SAMPLE = Sample("s", (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")))


async def test_a_call_that_outlasts_the_grace_is_answered_by_the_next_server(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, working = FakeEngine.score, asyncio.Event()

    async def never_done(self: FakeEngine, requests: Any) -> Any:
        if self.score_calls_are_slow:  # type: ignore[attr-defined]
            working.set()
            await asyncio.sleep(60)
        return await usual(self, requests)

    monkeypatch.setattr(FakeEngine, "score", never_done)
    monkeypatch.setattr(FakeEngine, "score_calls_are_slow", False, raising=False)
    create = partial(create_engine, "fake")
    options = ClientOptions(initial_backoff=0.05, max_backoff=0.2)
    async with running(settings, create) as server:
        address = server.address
        client = AsyncClient(Endpoints.at(address), options=options)
        monkeypatch.setattr(FakeEngine, "score_calls_are_slow", True)
        call = asyncio.create_task(client.scoring.score([SAMPLE]))
        await working.wait()
        await server.stop(grace=0.0)
    assert not call.done()
    monkeypatch.setattr(FakeEngine, "score_calls_are_slow", False)
    again = settings.model_copy(update={"port": int(address.rpartition(":")[2])})
    async with client, running(again, create):
        batch = await call
    assert batch.scores[0].status.ok
