"""What a server process holds: memory, handles, and calls that have not ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.fuzz.world import World


@dataclass(frozen=True)
class Vitals:
    """At one moment. `memory` in bytes, resident; `handles` are open files and sockets."""

    memory: int
    handles: int
    open_calls: int

    @classmethod
    def of(cls, world: World) -> Vitals:
        """Those of a world's server."""
        process = psutil.Process(world.process.pid)
        return cls(process.memory_info().rss, process.num_fds(), world.calls_sent - world.calls_logged)

    def __str__(self) -> str:
        return f"{self.memory >> 20} MiB, {self.handles} handles, {self.open_calls} open calls"
