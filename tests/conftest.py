"""What holds for all tests."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--own-cores", action="store_true", help="divide the cores among the processes of --numprocesses")


def pytest_configure(config: pytest.Config) -> None:
    """Engines take all cores that they may; of two at once on the same cores, each waits for the other."""
    worker, count = (os.environ.get(f"PYTEST_XDIST_{name}", "") for name in ("WORKER", "WORKER_COUNT"))
    if worker and config.getoption("--own-cores") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        number = int(worker.removeprefix("gw")) % len(cores)
        os.sched_setaffinity(0, cores[number :: int(count)])
