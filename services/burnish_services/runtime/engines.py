"""The engines of a process: at most one per task, shared by the services that need it.

Scoring and rewriting share the GENERATE engine, scoring and embedding the POOL engine. An engine is only built where a
role asks for it, and only started once all roles are there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable

from burnish_services.engine.adapters import MergedModels
from burnish_services.engine.base import Engine, EngineSettings, Task
from burnish_services.engine.hosting import ModelHost
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.object_places import is_object_uri
from burnish_services.engine.restarts import Restarts

log = logging.getLogger(__name__)

_HEALTH_INTERVAL_SECONDS = 5.0


class EnginePool:
    """Hands out one ModelHost per task."""

    def __init__(
        self,
        create: Callable[[EngineSettings], Engine],
        settings: EngineSettings,
        restarts: int = 0,
        models: ModelStore | None = None,
        merged: MergedModels | None = None,
    ) -> None:
        """`restarts`: how often each engine may be started anew within ten minutes where its process ended. `models`:
        finds those that calls name. `merged`: where those go that adapters make of them."""
        self._create = create
        self._settings = settings
        self._restarts = restarts
        self._models = models
        self._merged = merged
        self._hosts: dict[Task, ModelHost] = {}

    def host(self, task: Task) -> ModelHost:
        """The host of the engine for `task`; may be used for work once `start` has returned."""
        if task not in self._hosts:

            def create(model: str) -> Engine:
                return self._create(dataclasses.replace(self._settings, task=task, model=model))

            restarts = Restarts(self._restarts)
            engine = create(self._settings.model)
            self._hosts[task] = ModelHost(engine, create, restarts, self._models, self._merged)
        return self._hosts[task]

    def hosts(self) -> list[tuple[Task, ModelHost]]:
        """The hosts of all engines that were asked for."""
        return list(self._hosts.items())

    async def start(self) -> None:
        """Starts every engine asked for, one after the other: two at once would fight for the same cores and memory.
        Raises ModelLoadError or EngineDead."""
        for task, host in self._hosts.items():
            began = time.monotonic()
            await host.start(self._settings.model if is_object_uri(self._settings.model) else "")
            version = host.version
            log.info(
                "engine started",
                extra={
                    "task": str(task),
                    "engine": host.engine.name,
                    "model": version.uri if version else "",
                    "digest": version.digest if version else "",
                    "seconds": round(time.monotonic() - began, 2),
                },
            )

    async def watch(self) -> None:
        """Never returns; raises EngineDead once an engine is found dead, whether or not anybody was using it."""
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_SECONDS)
            for host in self._hosts.values():
                await host.check_health()

    async def close(self) -> None:
        """Ends every engine; safe to call twice."""
        for host in self._hosts.values():
            await host.close()
