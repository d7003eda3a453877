"""What holds for all tests."""

from __future__ import annotations

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Files whose tests ask the same engines, which are started once for each process.
_SAME_ENGINES = tuple(f"tests/contract/test_{name}.py" for name in ("embedding", "generating", "golden", "scoring"))
_LONGEST_FIRST = (
    *_SAME_ENGINES,
    "tests/e2e/test_loop_real.py",
    "tests/service/sft/test_training_nodes.py",
    "tests/contract/test_vllm_engine.py",
    "tests/service/sft/test_training_processes.py",
    "tests/e2e/test_clear_golden.py",
)


class _ByEngine(LoadFileScheduling):
    """Each file to one process; those that ask the same engines to the same."""

    def _split_scope(self, nodeid: str) -> str:
        return "the same engines" if nodeid.startswith(_SAME_ENGINES) else str(super()._split_scope(nodeid))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--own-cores", action="store_true", help="divide the cores among the processes of --numprocesses")


def pytest_configure(config: pytest.Config) -> None:
    """Engines take all cores that they may; of two at once on the same cores, each waits for the other."""
    worker, count = (os.environ.get(f"PYTEST_XDIST_{name}", "") for name in ("WORKER", "WORKER_COUNT"))
    if worker and config.getoption("--own-cores") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        number = int(worker.removeprefix("gw")) % len(cores)
        os.sched_setaffinity(0, cores[number :: int(count)])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no core waits in the end for the other's last file."""
    if config.getoption("--own-cores"):
        items.sort(key=lambda item: _place(item.nodeid))  # stable: within a file the order stays


def _place(nodeid: str) -> int:
    return next((place for place, name in enumerate(_LONGEST_FIRST) if nodeid.startswith(name)), len(_LONGEST_FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    by_file = config.getoption("--own-cores") and config.getoption("dist") == "loadfile"
    return _ByEngine(config, log) if by_file else None
