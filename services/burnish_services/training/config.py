"""Settings of the training service: environment (BURNISH_TRAINING_…) over the defaults below."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from burnish_services.runtime.environment import EnvironmentSettings

DEFAULT_PORT = 29400  # torchrun's own for several machines


class TrainingSettings(EnvironmentSettings):
    """Limits of the training service, and how it treats its workers."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_TRAINING_", frozen=True, extra="forbid")

    max_concurrent_requests: int = Field(default=64, ge=1, description="unary requests in progress at a time")
    max_concurrent_streams: int = Field(
        default=256, ge=1, description="watches, readers of weights and uploads in progress at a time"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="threads that a worker computes with on a CPU; default: the cores that this process may use",
    )
    # Under torchrun, each with a part of weights, gradients and moments (FSDP).
    processes: int | None = Field(
        default=None,
        ge=1,
        description="processes that train a run together, on each machine; default: as many as there are GPUs, at least"
        " one",
    )
    # The others run `burnish_services.training.follower` on the same state directory.
    nodes: int = Field(default=1, ge=1, description="machines that train a run together, this one included")
    rendezvous: str = Field(
        default="",
        description=f"HOST:PORT of this machine, where the others meet it; default: its host name and {DEFAULT_PORT}",
    )
    lease_seconds: float = Field(
        default=60.0, ge=1, description="seconds for which a machine that says nothing still counts as there"
    )
    checkpoint_seconds: float = Field(
        default=600.0,
        gt=0,
        description="a checkpoint is also written when the last one is older than this, whatever checkpoint_steps says",
    )
    max_restarts: int = Field(
        default=3,
        ge=0,
        description="how often a run whose worker died is begun anew without a checkpoint having been written in"
        " between",
    )
    restart_delay: float = Field(default=1.0, ge=0, description="seconds before such a new beginning")
    stop_seconds: float = Field(
        default=20.0,
        ge=0,
        description="seconds that a worker has to finish its step and write a checkpoint when the server stops",
    )
    keep_failed_seconds: float = Field(
        default=7 * 86400.0,
        ge=0,
        description="seconds that the last checkpoint of a run that failed is kept, for a new run of the same kind to"
        " go on from",
    )
    # A request id whose run is gone makes a new one, so this is how long a command that is given again finds its run.
    keep_ended_seconds: float = Field(
        default=90 * 86400.0,
        ge=0,
        description="seconds that a run that has ended is kept, with its events and logs; one whose model lies in its"
        " own directory is never removed; 0: for ever",
    )
    keep_paused_seconds: float = Field(
        default=14 * 86400.0,
        ge=0,
        description="seconds that a paused run waits for its responses; then it is cancelled; 0: for ever",
    )
    fake_step_seconds: float = Field(default=0.002, ge=0, description="seconds that the fake trainer takes for a step")
    # By default only places that this server's operator determines: its own disk, and object stores whose host and
    # credentials are in its environment. Not http(s): whoever may create runs could have the server fetch from any host
    # that it reaches. Others are those of fsspec, where the package that they need is installed.
    data_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("file", "s3", "gs", "az"),
        description="schemes of the URIs that data is read from; file stands for paths, too; uploads are always taken",
    )
    max_data_bytes: int = Field(
        default=10 * 2**30,
        ge=1,
        description="largest file that is uploaded or fetched; files read by their path are not stored and have no"
        " limit",
    )
    # At least an hour: that much may pass between finding a file and having the run on disk.
    keep_data_seconds: float = Field(
        default=86400.0,
        ge=3600,
        description="seconds that an uploaded or fetched file is kept after its last use, where no unfinished run needs"
        " it",
    )

    max_stored_bytes: int = Field(
        default=0,
        ge=0,
        description="bytes of uploaded and fetched files that are kept together; what does not fit is refused; 0: no"
        " limit",
    )

    @field_validator("data_schemes", mode="before")
    @classmethod
    def _split_schemes(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_schemes")
    @classmethod
    def _check_schemes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scheme in value:
            if not re.fullmatch("[a-z][a-z0-9+.-]*", scheme):
                raise ValueError(f"{scheme!r} is no scheme of a URI; expected such as `file,s3`")
        return value

    @field_validator("rendezvous")
    @classmethod
    def _check_rendezvous(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{value!r} is no HOST:PORT; expected such as `leader.internal:{DEFAULT_PORT}`")
        return value

    @property
    def endpoint(self) -> str:
        """`rendezvous`, or what stands for nothing."""
        return self.rendezvous or f"{socket.gethostname()}:{DEFAULT_PORT}"

    @property
    def worker_processes(self) -> int:
        """`processes`, or what stands for None."""
        return self.processes if self.processes is not None else max(1, _visible_gpus())

    @property
    def worker_threads(self) -> int:
        """Threads of each process: `threads`, or what stands for None."""
        return self.threads_of(self.worker_processes)

    def threads_of(self, processes: int) -> int:
        """The same of each of so many on this machine."""
        if self.threads is not None:
            return self.threads
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return max(1, cores // processes)


def _visible_gpus() -> int:
    """GPUs that a worker would see, by what the driver and the environment say; the server itself imports no torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
