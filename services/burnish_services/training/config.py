"""Settings of the training service: environment (BURNISH_TRAINING_…) over the defaults below."""

from __future__ import annotations

import os
import sys

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainingSettings(BaseSettings):
    """Limits of the training service, and how it treats its workers."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_TRAINING_", frozen=True, extra="forbid")

    # Unary requests in progress at a time.
    max_concurrent_requests: int = Field(default=64, ge=1)
    # Threads that a worker computes with on a CPU; None: the cores that this process may use.
    threads: int | None = Field(default=None, ge=1)
    # A checkpoint is also written when the last one is older than this, whatever checkpoint_steps says.
    checkpoint_seconds: float = Field(default=600.0, gt=0)
    # How often a run whose worker died is begun anew without a checkpoint having been written in between.
    max_restarts: int = Field(default=3, ge=0)
    # Seconds before such a new beginning.
    restart_delay: float = Field(default=1.0, ge=0)
    # Seconds that a worker has to finish its step and write a checkpoint when the server stops.
    stop_seconds: float = Field(default=20.0, ge=0)
    # Seconds that the fake trainer takes for a step.
    fake_step_seconds: float = Field(default=0.002, ge=0)

    @property
    def worker_threads(self) -> int:
        """`threads`, or what stands for None."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
