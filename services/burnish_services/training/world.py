"""Which of a run's processes this is: as torchrun tells it by the environment, or the only one. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class World:
    """Process `rank` (from 0) of `size` that train one model together. The first one speaks to the server, and writes
    what is to be written once."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> World:
        """As torchrun says."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        """True in the process that speaks and writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True where there is no other."""
        return self.size == 1


ALONE = World()
