"""What vLLM reads from the environment, and how its CPU threads are bound.

`prepare` must run before vllm is imported anywhere in the process; `for_children` holds while the engine's process is
spawned. An operator's own setting of any of these wins. Nothing here speaks to a network, and nothing is left to be
looked up on one: models are directories.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from burnish_services.engine.settings import parse_cores

# Up to so many cores all of them compute; beyond, vLLM's own rule holds, which heeds memory nodes and leaves one core
# to the front end.
_FEW_CORES = 4
_BIND = "VLLM_CPU_OMP_THREADS_BIND"

_ALWAYS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # Its processes write errors only: what they warn of at every start is how we start them.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # A forked gRPC process hangs.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # One position more than the model's context, for the token that a scored sequence is "continued" with.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
}
# With it, vLLM's processes trace on their own how they load, apart from the traces that Burnish makes.
_TRACED = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
# Nor do they repeat what Python and torch warn of in code that is not ours.
_QUIET = {"PYTHONWARNINGS": "ignore", "TORCH_LOGS": "-all"}


def prepare() -> None:
    """Sets what holds for the whole process."""
    for name, value in _ALWAYS.items():
        os.environ.setdefault(name, value)


def bound_cores(cpu_cores: str | None) -> tuple[int, ...] | None:
    """The cores that compute: those named (`0-1`), else all where there are few; None leaves the choice to vLLM."""
    if cpu_cores:
        return parse_cores(cpu_cores)
    allowed = _allowed_cores()
    return allowed if _BIND not in os.environ and len(allowed) <= _FEW_CORES else None


@contextlib.contextmanager
def for_children(cores: tuple[int, ...] | None, processes: int = 1) -> Iterator[None]:
    """Sets what the engine's processes must inherit, and takes it back: whatever else this process starts, such as
    training, binds its own threads.

    With `cores` given there is one process that both schedules and computes. vLLM's own way on a CPU is two, of which
    the first spins while it waits: a core lost, and half a gigabyte. Several `processes`, as tensor parallelism has
    them, get as many of the cores each.
    """
    before = dict(os.environ)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in _TRACED:
        os.environ.pop(name, None)
    if cores is not None and processes > 1:
        each = max(1, len(cores) // processes)
        parts = [cores[rank * each : (rank + 1) * each] for rank in range(processes)]
        os.environ[_BIND] = "|".join(",".join(map(str, part)) for part in parts)
    elif cores is not None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ[_BIND] = ",".join(map(str, cores))
        os.environ["OMP_NUM_THREADS"] = str(len(cores))
        os.environ["GOMP_CPU_AFFINITY"] = " ".join(map(str, cores))
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _allowed_cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
