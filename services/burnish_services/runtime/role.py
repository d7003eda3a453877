"""What a service gives to, and gets from, the process that runs it.

Each service has a module `burnish_services.<name>.servicer` with a function `create(context) -> Role`. The
process builds every role, adds them to one gRPC server, starts the engines that they asked `context.engines`
for, then the roles, and only then announces SERVING. Stopping goes the other way round.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from pydantic import ValidationError

from burnish_services.engine.model_store import ModelStore
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.engines import EnginePool
from burnish_services.runtime.readings import Reading


class RoleUnavailable(RuntimeError):
    """A service cannot run as the process is set up; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a service may use of its process."""

    settings: ServerSettings
    # `engines.host(Task.GENERATE)` in `create` reserves an engine; it answers from `Role.start` on.
    engines: EnginePool
    models: ModelStore  # finds the models that callers name
    version: str  # of Burnish, for ServerInfo

    @property
    def patience(self) -> float:
        """Seconds that an earlier server on the same state may take to end, beside what a role itself needs for it."""
        return 2 * self.settings.grace

    def state_directory(self, role: str) -> Path:
        """Where role `role` keeps what must outlive the process, and the directory that it is in now; created if
        missing."""
        directory = self.settings.state_dir.absolute() / role
        directory.mkdir(parents=True, exist_ok=True)
        return directory


class Role(ABC):
    """One service in a server process."""

    # The service's one word, such as `scoring`.
    name: str
    # The service's full proto name, such as `burnish.api.scoring.v1.ScoringService`; health is reported under
    # it.
    service_full_name: str
    # Most unary calls in progress at a time, GetInfo not counted; further ones are answered
    # RESOURCE_EXHAUSTED.
    max_concurrent_requests: int = 64
    # Most calls with a stream on either side in progress at a time, not counted among those above; answered alike.
    max_concurrent_streams: int = 256
    # Most prompt tokens of its calls in the engines at a time; None: as many as the calls bring.
    max_tokens_in_flight: int | None = None

    @abstractmethod
    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Registers the servicer."""

    def readings(self) -> Iterable[Reading]:
        """What metrics show of it at this moment, beside its calls. Asked in another thread. Default: nothing."""
        return ()

    async def start(self) -> None:  # noqa: B027 - optional
        """Takes up work once the engines are ready, before SERVING is announced. Default: nothing to do."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Gives up what `start` took, after all calls have ended. Safe to call twice and without `start`."""


def create_role(name: str, context: RoleContext) -> Role:
    """Builds the role `name`, importing its service only now, so that a process pays for what it runs. Raises
    RoleUnavailable."""
    module = importlib.import_module(f"burnish_services.{name}.servicer")
    try:
        role: Role = module.create(context)
    except ValidationError as error:
        raise RoleUnavailable("; ".join(_complaint(name, problem) for problem in error.errors())) from None
    return role


def _complaint(role: str, problem: Any) -> str:
    """What is wrong with a setting, by the name of its variable."""
    variable = "_".join(["burnish", role, *map(str, problem["loc"])]).upper()
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # about no one's value
        return message
    return f"{variable} is {str(problem['input'])[:100]!r}: {message[0].lower()}{message[1:]}"
