"""What holds for all tests."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--own-core", action="store_true", help="each of --numprocesses on a core of its own")


def pytest_configure(config: pytest.Config) -> None:
    """Engines take all cores that they may; of two at once on the same two cores, each waits for the other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and config.getoption("--own-core") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
