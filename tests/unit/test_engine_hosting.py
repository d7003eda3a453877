"""Many users, one engine, several models: nobody gets other weights than named, nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from burnish_services.engine import canary
from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    EngineRestarting,
    EngineSettings,
    ModelDigestMismatch,
    ModelLoadError,
    ModelNotFound,
    ScoreRequest,
    Task,
    TokenScores,
)
from burnish_services.engine.canary import CANARY_TEXT, CanaryFailed
from burnish_services.engine.fake import FakeEngine, canary_mean_nll, write_fake_model
from burnish_services.engine.hosting import ModelHost, ModelReference
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.restarts import Restarts
from tests.waiting import until

IDS = [5, 300, 301, 302, 303]


class WatchedEngine(FakeEngine):
    """Fails the test where a swap and use overlap, and remembers the swaps."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.swaps: list[str] = []
        self.users = 0
        self.swapping = False

    async def swap(self, uri: str, digest: str) -> None:
        assert self.users == 0, "swapped while in use"
        self.swapping = True
        self.swaps.append(Path(uri).name)
        try:
            await super().swap(uri, digest)
        finally:
            self.swapping = False

    async def score(self, requests: Sequence[ScoreRequest]):
        assert not self.swapping, "used while swapping"
        self.users += 1
        try:
            return await super().score(requests)
        finally:
            self.users -= 1


def reference(path: Path) -> ModelReference:
    return ModelReference(str(path))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {name: write_fake_model(tmp_path / name, name=name, latency_seconds=0.001) for name in "abc"}


@pytest.fixture
async def host(models: dict[str, Path]) -> AsyncIterator[ModelHost]:
    host = ModelHost(WatchedEngine(EngineSettings(str(models["a"]))))
    await host.start()
    yield host
    await host.close()


def swaps(host: ModelHost) -> list[str]:
    assert isinstance(host.engine, WatchedEngine)
    return host.engine.swaps


async def test_the_version_says_what_is_held(host: ModelHost, models: dict[str, Path]) -> None:
    async with host.using(None) as version:
        assert version == host.version or version.queue_seconds > 0
        assert (version.uri, version.digest) == (str(models["a"]), model_digest(models["a"]))
        assert version.engine.startswith("fake/")
        assert version.dtype == "float32"
        assert version.chat_template_digest == host.engine.tokenizer.template_digest
        assert version.swap_seconds == 0.0
    async with host.using(ModelReference(models["b"].as_uri(), model_digest(models["b"]))) as version:
        assert version.digest == model_digest(models["b"])
        assert 0 < version.swap_seconds <= version.queue_seconds


async def test_the_same_content_elsewhere_is_not_loaded_again(host: ModelHost, tmp_path: Path) -> None:
    twin = write_fake_model(tmp_path / "twin", name="a", latency_seconds=0.001)
    async with host.using(reference(twin)) as version:
        assert version.uri.endswith("/a")
    assert swaps(host) == ["a"]


async def test_many_users_of_many_models_each_get_what_they_named(host: ModelHost, models: dict[str, Path]) -> None:
    expected = {}
    for name, path in models.items():
        engine = FakeEngine(EngineSettings(str(path)))
        await engine.start()
        (expected[name],) = await engine.score([ScoreRequest(IDS)])
    order = random.Random(0).choices("abc", k=60)

    async def use(name: str, index: int) -> float:
        await asyncio.sleep(0.0005 * index)
        async with host.using(reference(models[name])) as version:
            assert version.uri == str(models[name])
            for _ in range(3):
                (scores,) = await host.engine.score([ScoreRequest(IDS)])
                assert (scores.logprobs == expected[name].logprobs).all(), (
                    "scored with other weights than the version says"
                )
        return version.queue_seconds

    waits = await asyncio.wait_for(asyncio.gather(*(use(name, i) for i, name in enumerate(order))), 20)
    assert len(swaps(host)) < len(order), "users of one model share a swap"
    assert max(waits) < 5


async def test_a_steady_stream_of_users_does_not_starve_a_swap(host: ModelHost, models: dict[str, Path]) -> None:
    served: list[str] = []
    stop = asyncio.Event()

    async def stream() -> None:
        while not stop.is_set():
            async with host.using(reference(models["a"])):
                served.append("a")
                await host.engine.score([ScoreRequest(IDS)])

    streams = [asyncio.create_task(stream()) for _ in range(4)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(5):
        for _ in range(5):
            async with host.using(reference(models["b"])):
                served.append("b")
    before = len(served)
    await until(lambda: len(served) > before)  # nor does the swap starve the stream
    stop.set()
    await asyncio.gather(*streams)
    assert served.count("b") == 5


async def test_work_in_flight_is_finished_before_a_swap(host: ModelHost, models: dict[str, Path]) -> None:
    release = asyncio.Event()

    async def hold() -> None:
        async with host.using(None):
            await release.wait()

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0.01)
    other = asyncio.create_task(_touch(host, reference(models["b"])))
    await until(lambda: host.waiting == 1)
    late = asyncio.create_task(_touch(host, reference(models["a"])))
    await until(lambda: host.waiting == 2)
    assert swaps(host) == ["a"]
    release.set()
    assert (await other).endswith("/b")
    assert (await late).endswith("/a")
    await holder


async def test_a_user_who_gives_up_while_waiting_leaves_nothing_behind(
    host: ModelHost, models: dict[str, Path]
) -> None:
    async with host.using(None):
        user = asyncio.create_task(_touch(host, reference(models["b"])))
        await until(lambda: host.waiting == 1)
        user.cancel()
        with pytest.raises(asyncio.CancelledError):
            await user
        assert host.waiting == 0
    for round_ in range(20):  # cancelled at every stage of waiting, swapping and being let in
        task = asyncio.create_task(_touch(host, reference(models["bc"[round_ % 2]])))
        await asyncio.sleep(0.0004 * round_)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5), host.using(reference(models["a"])) as version:
        assert version.uri.endswith("/a")


@pytest.mark.parametrize(("fault", "error"), [("load", ModelLoadError), ("stale", CanaryFailed), ("nan", CanaryFailed)])
@pytest.mark.parametrize("task", list(Task))
async def test_weights_that_fail_are_refused_and_the_old_ones_serve_on(
    models: dict[str, Path], tmp_path: Path, fault: str, error: type[ModelLoadError], task: Task
) -> None:
    host = ModelHost(FakeEngine(EngineSettings(str(models["a"]), task)))
    await host.start()
    bad = write_fake_model(tmp_path / "bad", name="bad", fault=fault)  # type: ignore[arg-type]
    users = [asyncio.create_task(_touch(host, reference(bad))) for _ in range(3)]
    results = await asyncio.gather(*users, return_exceptions=True)
    assert [type(result) for result in results] == [error] * 3
    async with host.using(None) as version:
        assert version.uri == str(models["a"])
    reading = await canary.read(host.engine, canary.canary_ids(host.engine.tokenizer))
    fresh = FakeEngine(EngineSettings(str(models["a"]), task))
    await fresh.start()
    assert (reading.values == (await canary.read(fresh, canary.canary_ids(fresh.tokenizer))).values).all()


async def test_where_the_old_weights_are_gone_too_the_next_named_model_is_loaded(
    host: ModelHost, models: dict[str, Path], tmp_path: Path
) -> None:
    bad = write_fake_model(tmp_path / "bad", fault="load")
    (models["a"] / "fake_model.json").unlink()
    with pytest.raises(ModelLoadError):
        await _touch(host, reference(bad))
    assert host.version is None
    with pytest.raises(ModelLoadError, match="no model is held"):
        await _touch(host, ModelReference())
    assert (await _touch(host, reference(models["b"]))).endswith("/b")


async def test_a_model_s_own_canary_must_fit(host: ModelHost, models: dict[str, Path]) -> None:
    def state(mean: float) -> None:
        (models["b"] / "burnish.json").write_text(json.dumps({"canary": {"text": CANARY_TEXT, "mean_nll": mean}}))

    state(canary_mean_nll(models["b"]) + 0.3)
    with pytest.raises(CanaryFailed, match=r"burnish.json states"):
        await _touch(host, reference(models["b"]))
    state(canary_mean_nll(models["b"]))
    await _touch(host, reference(models["b"]))


async def test_weights_that_answer_differently_when_loaded_again_are_refused(
    host: ModelHost, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    await _touch(host, reference(models["b"]))
    await _touch(host, reference(models["a"]))
    real = FakeEngine.swap

    async def garbage(self: FakeEngine, uri: str, digest: str) -> None:
        await real(self, uri, digest)
        self._numbers_digest = "garbage" if uri.endswith("/b") else digest

    monkeypatch.setattr(FakeEngine, "swap", garbage)
    with pytest.raises(CanaryFailed, match="when they were loaded earlier"):
        await _touch(host, reference(models["b"]))
    assert (await _touch(host, ModelReference())).endswith("/a")


async def test_names_that_do_not_fit(host: ModelHost, models: dict[str, Path]) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(ModelNotFound):
        await _touch(host, ModelReference("/nowhere"))
    with pytest.raises(ModelDigestMismatch, match="its content is not"):
        await _touch(host, ModelReference(str(models["b"]), wrong))
    with pytest.raises(ModelDigestMismatch, match="name a uri"):
        await _touch(host, ModelReference("", wrong))
    await _touch(host, ModelReference("", model_digest(models["a"])))
    assert swaps(host) == ["a"]


async def test_a_dead_engine_is_seen_by_everyone(host: ModelHost, tmp_path: Path) -> None:
    dying = write_fake_model(tmp_path / "dying", fault="dead", latency_seconds=0.01)
    await host.check_health()

    async def use() -> None:
        async with host.using(reference(dying)):
            await host.engine.score([ScoreRequest(IDS)])

    results = await asyncio.gather(*(use() for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {EngineDead}
    assert host.dead is not None
    with pytest.raises(EngineDead):
        await host.check_health()
    with pytest.raises(EngineDead):
        await _touch(host, ModelReference())


def counting_host(first: Path, restarts: int) -> tuple[ModelHost, list[str]]:
    """A host that may start its engine anew, and the models that it was started on."""
    started: list[str] = []

    def create(model: str) -> WatchedEngine:
        started.append(Path(model).name)
        return WatchedEngine(EngineSettings(model))

    return ModelHost(create(str(first)), create, Restarts(restarts)), started


async def test_a_lost_engine_is_started_anew_on_the_weights_it_held(models: dict[str, Path]) -> None:
    host, started = counting_host(models["a"], restarts=1)
    await host.start()
    async with host.using(reference(models["b"])):
        (before,) = await host.engine.score([ScoreRequest(IDS)])

    async def use(together: asyncio.Barrier) -> TokenScores | EngineFailure:
        async with host.using(reference(models["b"])):
            await together.wait()
            host.engine._dead = True  # type: ignore[attr-defined]
            return (await host.engine.score([ScoreRequest(IDS)]))[0]

    all_inside = asyncio.Barrier(3)
    results = await asyncio.gather(*(use(all_inside) for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {EngineRestarting}, "what was in flight may be asked again"
    await host.check_health()
    assert (host.dead, host.version) == (None, None)
    async with host.using(None) as version:  # who comes meanwhile waits
        assert version.uri == str(models["b"])
        (after,) = await host.engine.score([ScoreRequest(IDS)])
    assert (before.logprobs == after.logprobs).all()
    assert started == ["a", "b"]
    results = await asyncio.gather(use(asyncio.Barrier(1)), return_exceptions=True)
    assert type(results[0]) is EngineDead, "one restart was allowed"
    assert host.dead is not None
    await host.close()


async def test_an_engine_lost_while_nobody_used_it_is_found_and_started_anew(models: dict[str, Path]) -> None:
    host, started = counting_host(models["a"], restarts=1)
    await host.start()
    host.engine._dead = True  # type: ignore[attr-defined]
    await host.check_health()
    await _touch(host, reference(models["a"]))
    await host.check_health()
    assert started == ["a", "a"]
    await host.close()


async def test_an_engine_that_dies_in_a_swap_is_started_anew_and_who_waits_is_served(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, started = counting_host(models["a"], restarts=1)
    await host.start()
    real, deaths = FakeEngine.swap, 0

    async def swap(self: FakeEngine, uri: str, digest: str) -> None:
        nonlocal deaths
        if uri.endswith("/b") and not deaths:
            deaths += 1
            raise EngineDead("killed while it loaded")
        await real(self, uri, digest)

    monkeypatch.setattr(FakeEngine, "swap", swap)
    assert (await asyncio.wait_for(_touch(host, reference(models["b"])), 5)).endswith("/b")
    assert started == ["a", "a"]
    await host.close()


async def test_an_engine_that_cannot_be_started_anew_is_dead(models: dict[str, Path]) -> None:
    host, _ = counting_host(models["a"], restarts=3)
    await host.start()
    (models["a"] / "fake_model.json").unlink()
    host.engine._dead = True  # type: ignore[attr-defined]
    await host.check_health()
    with pytest.raises(EngineDead, match="could not be started anew"):
        await _touch(host, ModelReference())
    with pytest.raises(EngineDead):
        await host.check_health()


async def test_closing_refuses_whoever_waits(host: ModelHost, models: dict[str, Path]) -> None:
    async with host.using(None):
        user = asyncio.create_task(_touch(host, reference(models["b"])))
        await until(lambda: host.waiting == 1)
        await host.close()
        with pytest.raises(EngineDead, match="shutting down"):
            await user
    await host.close()


async def _touch(host: ModelHost, name: ModelReference) -> str:
    async with host.using(name) as version:
        await asyncio.sleep(0)
        return version.uri
