"""All four services on the fake engine with metrics, real work for them, and what their side port then says."""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from burnish import AsyncClient, Message, ModelRef, Prompt, Role, RunSpec, Sample
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.runtime.server import Server, running
from tests.service.support import failure_of

GOOD = [
    Sample(f"s{i}", (Message(Role.USER, f"Question {i}?"), Message(Role.ASSISTANT, f"Answer {i} at length.")))
    for i in range(4)
]
EMPTY = Sample("empty", (Message(Role.USER, "Question?"), Message(Role.ASSISTANT, "")))


@asynccontextmanager
async def seen_services(folder: Path, **more: object) -> AsyncIterator[Server]:
    """The services, with metrics on a free port."""
    model = write_fake_model(folder / "model", name="first", seed=1)
    settings = ServerSettings(
        **{
            "roles": ALL_ROLES,
            "engine": "fake",
            "model": str(model),
            "state_dir": folder / "state",
            "grace": 2.0,
            "metrics_port": 0,
        }
        | more  # type: ignore[arg-type]
    )
    async with running(settings, partial(create_engine, "fake")) as server:
        yield server


async def work(server: Server, folder: Path) -> None:
    """Something of everything: each service, a failed item, a swap, a refused call, a training run."""
    other = write_fake_model(folder / "other", name="other", seed=2)
    data = folder / "data.jsonl"
    data.write_text(
        "".join(
            f'{{"messages":[{{"role":"user","content":"Q{i}"}},{{"role":"assistant","content":"A{i}"}}]}}\n'
            for i in range(8)
        )
    )
    async with AsyncClient(server.address) as client:
        await client.scoring.score([*GOOD, EMPTY])
        await client.scoring.score(GOOD, model=ModelRef(str(other)))
        await client.scoring.judge(GOOD)
        await client.embedding.embed(GOOD, return_vectors=True)
        await client.rewriting.respond([Prompt(one.id, one.messages[:1]) for one in GOOD])
        run = await client.training.create(
            RunSpec(base_model=ModelRef(str(other)), data_uri=str(data)), request_id="seen-1"
        )
        await run.result()
        await failure_of(
            scoring_pb2_grpc.ScoringServiceStub(client.scoring._link.channel()).ScoreSamples(
                scoring_pb2.ScoreSamplesRequest()
            )
        )


async def page(server: Server, context: ssl.SSLContext | None = None) -> str:
    """What the side port says now."""
    scheme = "http" if context is None else "https"

    def get() -> str:
        address = f"{scheme}://{server.observability.metrics_address}/metrics"
        with urllib.request.urlopen(address, context=context, timeout=30) as reply:
            return reply.read().decode()

    return await asyncio.to_thread(get)


# On the page once `work` is over.
WORKED = ('method="WatchRun",service="training"} 1.0', 'code="INVALID_ARGUMENT"')


async def page_with(server: Server, *parts: str) -> str:
    """What it says once all of these are on it: a call is counted when its reply is out, so that the caller is a moment
    ahead."""
    give_up = time.monotonic() + 30
    while True:
        text = await page(server)
        if all(part in text for part in parts):
            return text
        assert time.monotonic() < give_up, text


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of that name with at least these labels."""
    found = [
        sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, f"no sample {name} {labels}"
    return sum(found)
