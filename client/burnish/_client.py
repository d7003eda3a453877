"""`AsyncClient` and `Client`: the four services, as one object with one attribute each.

The asynchronous client is the one that is written out; the synchronous one runs it on a background event loop.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from burnish._channel import ClientOptions, Connections, ServiceLink
from burnish._embedding import AsyncEmbedding, Embedding
from burnish._endpoints import Endpoints
from burnish._loop import shared_loop
from burnish._rewriting import AsyncRewriting, Rewriting
from burnish._scoring import AsyncScoring, Scoring
from burnish._training import AsyncTraining, Training


def _resolve(endpoints: Endpoints | str | None, options: ClientOptions | None) -> tuple[Endpoints, ClientOptions]:
    if endpoints is None:
        from burnish._settings import load_settings  # pydantic takes time to import; who names addresses needs none

        settings = load_settings()
        endpoints, options = settings.endpoints, options or settings.client_options
    elif isinstance(endpoints, str):
        endpoints = Endpoints.at(endpoints)
    return endpoints, options or ClientOptions()


class AsyncClient:
    """The services, asynchronous. Belongs to the event loop that uses it first; connects at the first call.

    `endpoints`: where the services are; a single address means all four are there; None takes them, and the options,
    from BURNISH_... variables and burnish.toml. Close it, or use it as an asynchronous context manager.
    """

    scoring: AsyncScoring
    embedding: AsyncEmbedding
    rewriting: AsyncRewriting
    training: AsyncTraining

    def __init__(self, endpoints: Endpoints | str | None = None, *, options: ClientOptions | None = None) -> None:
        self.endpoints, self.options = _resolve(endpoints, options)
        self._connections = Connections(self.options)
        self.scoring = AsyncScoring(self._link("scoring"))
        self.embedding = AsyncEmbedding(self._link("embedding"))
        self.rewriting = AsyncRewriting(self._link("rewriting"))
        self.training = AsyncTraining(self._link("training"))

    def _link(self, service: str) -> ServiceLink:
        return ServiceLink(service, self.endpoints, self._connections)

    async def close(self) -> None:
        """Closes the connections; calls in progress end with CallCancelled. Safe to call twice."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Client:
    """The services, synchronous: the same calls as AsyncClient, safe to use from several threads.

    Takes what AsyncClient takes. Close it, or use it as a context manager. Works inside notebooks, too.
    """

    scoring: Scoring
    embedding: Embedding
    rewriting: Rewriting
    training: Training

    def __init__(self, endpoints: Endpoints | str | None = None, *, options: ClientOptions | None = None) -> None:
        self._twin = AsyncClient(endpoints, options=options)
        self.endpoints, self.options = self._twin.endpoints, self._twin.options
        self._loop = shared_loop()
        self.scoring = Scoring(self._loop, self._twin.scoring)
        self.embedding = Embedding(self._loop, self._twin.embedding)
        self.rewriting = Rewriting(self._loop, self._twin.rewriting)
        self.training = Training(self._loop, self._twin.training)

    def close(self) -> None:
        """Closes the connections; calls in progress in other threads end with CallCancelled. Safe to call twice."""
        self._loop.run(self._twin.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
