"""What clients do all day, failures included: each visitor does one thing again and again until told to stop."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import burnish
from burnish import AsyncClient, ClientOptions, Message, RewriteItem, Role, Sample, Strategy

# What a call may end with here; anything else is a finding.
EXPECTED = (burnish.DeadlineExceeded, burnish.NotFound, burnish.PreconditionFailed, burnish.Overloaded)


@dataclass
class Site:
    """Where visitors go: the server's address, models that take turns, and a folder with training data."""

    address: str
    models: list[str]
    data: Path
    draw: random.Random

    def client(self) -> AsyncClient:
        """A new client, on a connection of its own: gRPC shares them among channels that are alike in all options."""
        alone = 30 + self.draw.random()
        options = ClientOptions(max_batch_items=16, initial_backoff=0.05, keepalive_seconds=alone)
        return AsyncClient(self.address, options=options)

    def samples(self, count: int = 32) -> list[Sample]:
        """Conversations, one in eight of which has something wrong."""
        made = []
        for number in range(count):
            answer = "" if self.draw.random() < 0.125 else "A few words, " * self.draw.randrange(1, 40)
            turns = (Message(Role.USER, f"Question {self.draw.random()}?"), Message(Role.ASSISTANT, answer))
            made.append(Sample(f"s{number}", turns))
        return made


Visit = Callable[[Site, AsyncClient, int], Awaitable[None]]


async def score(site: Site, client: AsyncClient, number: int) -> None:
    """Scores, mostly by one model, now and then by another, which is swapped in."""
    model = site.draw.choice(site.models) if number % 20 == 0 else site.models[0]
    batch = await client.scoring.score(site.samples(), model=model)
    assert len(batch.scores) == 32


async def judge(site: Site, client: AsyncClient, number: int) -> None:
    """Ratings and rewrites."""
    await client.scoring.judge(site.samples(4))
    await client.rewriting.rewrite([RewriteItem(sample) for sample in site.samples(4)], Strategy.SIMPLIFY)


async def collect(site: Site, client: AsyncClient, number: int) -> None:
    """A collection's life."""
    name = f"soak-{number % 3}-{site.draw.randrange(10**9)}"
    model = site.models[0]
    await client.embedding.create_collection(name)
    try:
        for _ in range(3):
            await client.embedding.embed(site.samples(), model=model, collection=name)
        await client.embedding.neighbor_statistics(name, k=2)
    finally:
        await client.embedding.delete_collection(name)


async def give_up(site: Site, client: AsyncClient, number: int) -> None:
    """Calls that are cancelled, and calls with deadlines that cannot be kept."""
    call = asyncio.ensure_future(client.scoring.score(site.samples(64)))
    await asyncio.sleep(site.draw.random() * 0.05)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.rewriting.rewrite([RewriteItem(one) for one in site.samples(8)], Strategy.IMPROVE, timeout=0.02)


async def come_and_go(site: Site, client: AsyncClient, number: int) -> None:
    """A client that connects, asks, and leaves in the middle of a call."""
    visitor = site.client()
    await visitor.scoring.info()
    call = asyncio.ensure_future(visitor.embedding.embed(site.samples(), return_vectors=True))
    await asyncio.sleep(site.draw.random() * 0.05)
    await visitor.close()
    await asyncio.gather(call, return_exceptions=True)


async def train(site: Site, client: AsyncClient, number: int) -> None:
    """A run that is watched for a while by somebody who leaves, then cancelled, or waited for."""
    spec = burnish.RunSpec(burnish.ModelRef(site.models[0]), str(site.data))
    run = await client.training.create(spec)
    watcher = run.watch()
    async for event in watcher:
        if event.number >= 3:
            break
    await watcher.aclose()
    if number % 2:
        await run.cancel()
    else:
        await run.result()
    await client.training.upload(b"{}\n" * site.draw.randrange(1, 1000))


# Seconds between visits. Runs stay, on disk and in the server's list: a few a minute are many.
PAUSES: dict[Visit, float] = {train: 5.0}
VISITS: dict[str, Visit] = {
    "score": score,
    "judge": judge,
    "collect": collect,
    "give_up": give_up,
    "come_and_go": come_and_go,
    "train": train,
}


class Traffic:
    """Visitors of these kinds, all at once. `outcomes` counts visits by name and end, `surprises` keeps what nobody
    expected."""

    def __init__(self, site: Site, kinds: Iterable[str]) -> None:
        self._site = site
        self._kinds = tuple(kinds)
        self.outcomes: Counter[str] = Counter()
        self.surprises: list[str] = []

    async def go_on_until(self, ended: asyncio.Event) -> None:
        """Returns once `ended` is set and all visits are over."""
        await asyncio.gather(*(self._visits(name, VISITS[name], ended) for name in self._kinds))

    async def _visits(self, name: str, visit: Visit, ended: asyncio.Event) -> None:
        over = asyncio.ensure_future(ended.wait())
        async with self._site.client() as client:
            for number in itertools.count():
                if ended.is_set():
                    return
                try:
                    await visit(self._site, client, number)
                    self.outcomes[f"{name}: done"] += 1
                    if visit in PAUSES:
                        await asyncio.wait({over}, timeout=PAUSES[visit])
                except EXPECTED as error:
                    self.outcomes[f"{name}: {type(error).__name__}"] += 1
                except Exception as error:
                    self.outcomes[f"{name}: SURPRISE"] += 1
                    self.surprises.append(f"{name}: {type(error).__name__}: {error}")
                    await asyncio.sleep(1)
