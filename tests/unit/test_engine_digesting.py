"""Digests of models while others are served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish_services.engine import digesting
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.digesting import Digesting
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.model_digests import ModelDigests, model_digests
from tests.waiting import until


class Readings:
    """Readings of models that take until they are let go."""

    def __init__(self) -> None:
        self.begun: list[Path] = []
        self.go = threading.Event()

    def __call__(self, path: Path) -> ModelDigests:
        self.begun.append(path)
        assert self.go.wait(10)
        return model_digests(path)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Readings]:
    made = Readings()
    monkeypatch.setattr(digesting, "model_digests", made)
    yield made
    made.go.set()


async def test_a_model_that_many_ask_for_is_read_once(tmp_path: Path, readings: Readings) -> None:
    model, found = write_fake_model(tmp_path / "model"), Digesting()
    asking = [asyncio.create_task(found.of(model)) for _ in range(20)]
    await until(lambda: bool(readings.begun))
    asking[0].cancel()  # who began it has gone
    readings.go.set()
    answers = await asyncio.gather(*asking[1:])
    assert set(answers) == {model_digests(model)}
    assert readings.begun == [model]
    found.close()


async def test_a_model_that_is_known_waits_for_none_that_is_not(tmp_path: Path, readings: Readings) -> None:
    known, found = write_fake_model(tmp_path / "known"), Digesting()
    digests = model_digests(known)
    asking = [asyncio.create_task(found.of(write_fake_model(tmp_path / name, seed=1))) for name in "abcd"]
    await until(lambda: len(readings.begun) == 2)
    assert await asyncio.wait_for(found.of(known), 5) == digests
    readings.go.set()
    await asyncio.gather(*asking)
    found.close()


async def test_what_cannot_be_read_is_told_to_all_and_tried_anew(tmp_path: Path) -> None:
    found = Digesting()
    for _ in range(2):
        answers = await asyncio.gather(*(found.of(tmp_path) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(one, ModelLoadError) for one in answers)
    model = write_fake_model(tmp_path / "model")
    assert await found.of(model) == model_digests(model)
    found.close()
