"""What can be read off a running server at any moment: the numbers that gauges show.

A `Reading` is one number with its name and labels; what turns them into a page for Prometheus is `metrics.py`. Read in
another thread than the event loop's, while calls go on: each is right by itself, and no two need fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import psutil

from burnish_services.runtime.admission import Admission
from burnish_services.runtime.engines import EnginePool
from burnish_services.runtime.lifecycle import Lifecycle, Phase


@dataclass(frozen=True, slots=True)
class Reading:
    """One number. `name` without the `burnish_` in front, and without a counter's `_total`; readings of one name have
    the same labels."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["gauge", "counter"] = "gauge"


def read_lifecycle(lifecycle: Lifecycle, roles: list[str]) -> Iterator[Reading]:
    """Whether each service takes calls; the same as its health."""
    serving = float(lifecycle.phase is Phase.SERVING)
    for role in roles:
        yield Reading("serving", "1 while the service takes calls.", serving, {"service": role})


def read_admission(role: str, admission: Admission) -> Iterator[Reading]:
    """How much of what a service takes at a time is taken."""
    labels = {"service": role}
    yield Reading(
        "concurrent_requests", "Requests in progress, GetInfo and streams left out.", admission.running, labels
    )
    yield Reading("max_concurrent_requests", "Most requests in progress at a time.", admission.limit, labels)
    if admission.tokens is not None:
        yield Reading("tokens_in_flight", "Prompt tokens in the engines.", admission.tokens.held, labels)
        yield Reading("max_tokens_in_flight", "Most prompt tokens at a time.", admission.tokens.limit, labels)


def read_engines(engines: EnginePool) -> Iterator[Reading]:
    """Which weights are held, who waits for others, and how often an engine was lost."""
    for task, host in engines.hosts():
        labels = {"task": str(task)}
        held = host.version
        if held is not None:
            model = {**labels, "digest": held.digest, "engine": held.engine, "dtype": held.dtype}
            yield Reading("model_info", "1 for the weights that the engine holds.", 1.0, model)
        yield Reading("model_waiting_requests", "Requests that wait for their weights.", host.waiting, labels)
        yield Reading(
            "engine_restarts",
            "Times that an engine whose process ended was started anew.",
            host.restarts,
            labels,
            "counter",
        )


def read_children() -> Iterator[Reading]:
    """Memory of the processes that this one started, such as vLLM's and training's; its own is in `process_…`."""
    count, resident = 0, 0
    for child in psutil.Process().children(recursive=True):
        try:
            resident += child.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
        count += 1
    yield Reading("child_processes", "Processes that the server started and that run.", count)
    yield Reading("child_processes_resident_memory_bytes", "Their resident memory, together.", resident)
