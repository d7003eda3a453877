"""What the clients of all services share: the link to the service, and its limits, asked for once."""

from __future__ import annotations

from abc import ABC, abstractmethod

from burnish._channel import ServiceLink
from burnish._convert import Model, model_to_proto
from burnish._errors import UsageError
from burnish._loop import BackgroundLoop
from burnish._types import Limits, ModelVersion, ServerInfo


class AsyncService(ABC):
    """Base of the asynchronous clients."""

    def __init__(self, link: ServiceLink) -> None:
        self._link = link
        self._limits: Limits | None = None

    @abstractmethod
    async def info(self, *, timeout: float | None = None) -> ServerInfo:  # noqa: ASYNC109
        """What the server runs and its limits; quick, never loads a model."""

    @property
    def address(self) -> str:
        """Where the service is called. Raises UsageError where no address is configured."""
        return self._link.address

    async def _allowed(self) -> Limits:
        """The server's limits; replicas behind one address are taken to have the same."""
        if self._limits is None:
            self._limits = (await self.info()).limits
        return self._limits


class AsyncModelService(AsyncService):
    """Base of the asynchronous clients of services that hold a model."""

    @abstractmethod
    async def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:  # noqa: ASYNC109
        """Loads weights ahead of use and says which version is held then."""

    async def _version_for(self, model: Model | None) -> ModelVersion:
        """Which version would serve a call that names `model`; asked where no reply can say so."""
        if model is not None and model_to_proto(model).uri:
            return await self.load_model(model)
        held = (await self.info()).model
        if held is None:
            raise UsageError(f"the {self._link.service} service at {self.address} holds no model; name one")
        return held


class Service:
    """Base of the synchronous clients: the same calls, run on the background loop."""

    def __init__(self, loop: BackgroundLoop) -> None:
        self._loop = loop
