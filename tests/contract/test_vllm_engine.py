"""What only an engine in processes of its own can do: be cancelled there, die there, and be left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from burnish_services.engine.base import (
    EngineDead,
    EngineRestarting,
    EngineSettings,
    GenerateRequest,
    ModelMismatch,
    Sampling,
    ScoreRequest,
    TokenScores,
)
from burnish_services.engine.hosting import ModelHost, ModelReference
from burnish_services.engine.restarts import Restarts
from burnish_services.engine.transformers_engine import TransformersEngine
from burnish_services.engine.vllm_engine import VllmEngine
from tests.contract.conftest import MODEL
from tests.tiny_model import write_tiny_model
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

IDS = [10, 20, 30, 40, 50]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", head_dim=64)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tiny: Path) -> AsyncIterator[tuple[ModelHost, list[psutil.Process]]]:
    """A host, and the processes that its engine is."""
    before = processes()

    def engine(model: str) -> VllmEngine:
        return VllmEngine(EngineSettings(model))

    host = ModelHost(engine(str(tiny)), engine, Restarts(1))
    try:
        await host.start()
        yield host, list(processes() - before)
    finally:
        await host.close()


@pytest.fixture(scope="module")
def host(started: tuple[ModelHost, list[psutil.Process]]) -> ModelHost:
    return started[0]


@pytest.fixture(scope="module")
def core(started: tuple[ModelHost, list[psutil.Process]]) -> psutil.Process:
    (process,) = started[1]
    return process


def processes() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")}


def unfinished(host: ModelHost) -> int:
    engine: Any = host.engine
    return int(engine._client._llm.output_processor.get_num_unfinished_requests())


async def endless(host: ModelHost, number: int) -> None:
    """Replies that take a while: a random model hardly ever ends."""
    sampling = Sampling(seed=1, max_tokens=250)
    await host.engine.generate([GenerateRequest(IDS, sampling) for _ in range(number)])


async def test_it_has_one_process_and_leaves_our_environment_alone(core: psutil.Process) -> None:
    assert core.is_running()
    assert "GOMP_CPU_AFFINITY" not in os.environ
    assert "libgomp" not in os.environ.get("LD_PRELOAD", "")


async def test_cancelling_a_call_aborts_its_requests_in_the_engine(host: ModelHost) -> None:
    call = asyncio.create_task(endless(host, 16))
    await until(lambda: unfinished(host) == 16)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert unfinished(host) == 0


async def test_weights_of_another_shape_are_refused_and_the_held_ones_serve_on(host: ModelHost, tiny: Path) -> None:
    (before,) = await host.engine.score([ScoreRequest(IDS)])
    with pytest.raises(ModelMismatch, match="hidden_size is 576, expected 64"):
        async with host.using(ModelReference(str(MODEL))):
            pass
    async with host.using(None) as version:
        assert version.uri == str(tiny)
        (after,) = await host.engine.score([ScoreRequest(IDS)])
    assert isinstance(before, TokenScores)
    assert isinstance(after, TokenScores)
    assert (before.logprobs == after.logprobs).all()


async def test_weights_are_swapped_though_those_it_was_started_with_are_gone(
    host: ModelHost, tiny: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1, head_dim=64)
    (before,) = await host.engine.score([ScoreRequest(IDS)])
    shutil.move(tiny, tmp_path / "away")
    try:
        async with host.using(ModelReference(str(other))):
            (swapped,) = await host.engine.score([ScoreRequest(IDS)])
    finally:
        shutil.move(tmp_path / "away", tiny)
    async with host.using(ModelReference(str(tiny))):
        (after,) = await host.engine.score([ScoreRequest(IDS)])
    found = [one.logprobs.tolist() for one in (before, swapped, after) if isinstance(one, TokenScores)]
    assert len(found) == 3
    assert found[0] == found[2] != found[1]


async def kill(host: ModelHost, core: psutil.Process) -> BaseException | None:
    """Kills the engine's process under a call; returns what became of the call."""

    async def use() -> None:
        async with host.using(None):
            await endless(host, 16)

    await host.check_health()
    call = asyncio.create_task(use())
    await until(lambda: unfinished(host) == 16)  # a fast machine is through in a third of a second
    core.send_signal(signal.SIGKILL)
    (result,) = await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 10)
    return result


async def test_a_killed_process_is_started_anew_and_then_no_more(host: ModelHost, core: psutil.Process) -> None:
    (before,) = await host.engine.score([ScoreRequest(IDS)])
    earlier = processes()
    assert isinstance(await kill(host, core), EngineRestarting)
    async with host.using(None):  # waits for it
        (after,) = await host.engine.score([ScoreRequest(IDS)])
    assert isinstance(before, TokenScores)
    assert isinstance(after, TokenScores)
    assert (before.logprobs == after.logprobs).all()
    (again,) = processes() - earlier
    assert isinstance(await kill(host, again), EngineDead), "one restart was allowed"
    with pytest.raises(EngineDead):
        await host.check_health()
    with pytest.raises(EngineDead):
        async with host.using(None):
            pass


_START = """
import asyncio, sys, psutil
from burnish_services.engine.base import EngineSettings
from burnish_services.engine.transformers_engine import TransformersEngine
from burnish_services.engine.vllm_engine import VllmEngine
async def main():
    engine = VllmEngine(EngineSettings(sys.argv[1]))
    await engine.start()
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    await asyncio.sleep(600)
if __name__ == "__main__":
    asyncio.run(main())
"""


# Said before vLLM sets up logging, where torch was built for CUDA (`make setup` without an index of CPU wheels).
_OF_CUDA_BUILDS = ("Triton is installed, but doesn't include CPU backend", "No CUDA runtime is found")


async def test_a_killed_server_leaves_no_process_behind(tiny: Path, tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(_START)
    server = await asyncio.create_subprocess_exec(
        sys.executable, script, tiny, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        line = await asyncio.wait_for(server.stdout.readline(), 120)
        children = [psutil.Process(int(pid)) for pid in line.split()]
        assert children
    finally:
        server.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 15)
    assert alive == []
    _, errors = await server.communicate()
    said = [line for line in errors.decode().splitlines() if not any(words in line for words in _OF_CUDA_BUILDS)]
    assert said == [], "starting is quiet"


async def test_a_model_divided_among_processes_is_the_same(tiny: Path) -> None:
    settings = EngineSettings(str(tiny), dtype="float32")
    divided, whole = VllmEngine(replace(settings, tensor_parallel_size=2)), TransformersEngine(settings)
    scored, generated = ScoreRequest(IDS * 9), GenerateRequest(IDS, Sampling(temperature=0.0, max_tokens=6))
    try:
        await divided.start()
        await whole.start()
        (ours,), (theirs,) = await divided.score([scored]), await whole.score([scored])
        assert isinstance(ours, TokenScores)
        assert isinstance(theirs, TokenScores)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
        assert await divided.generate([generated]) == await whole.generate([generated])
    finally:
        await divided.close()
        await whole.close()
