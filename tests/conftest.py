"""What holds for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil
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

_SHM, _PLENTY = Path("/dev/shm"), 12 << 30  # noqa: S108 - each run has a folder of its own there
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
_IN_MEMORY = pytest.StashKey[Path]()


class _ByEngine(LoadFileScheduling):
    """Each file to one process; those that ask the same engines to the same."""

    def _split_scope(self, nodeid: str) -> str:
        return "the same engines" if nodeid.startswith(_SAME_ENGINES) else str(super()._split_scope(nodeid))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--own-cores", action="store_true", help="divide the cores among the processes of --numprocesses")


@pytest.hookimpl(tryfirst=True)  # before pytest decides where files of tests are
def pytest_configure(config: pytest.Config) -> None:
    worker, count = (os.environ.get(f"PYTEST_XDIST_{name}", "") for name in ("WORKER", "WORKER_COUNT"))
    if not worker:
        _place_files(config)
    elif config.getoption("--own-cores") and hasattr(os, "sched_setaffinity"):
        # Engines take all cores that they may; of two at once on the same cores, each waits for the other.
        cores = sorted(os.sched_getaffinity(0))
        number = int(worker.removeprefix("gw")) % len(cores)
        os.sched_setaffinity(0, cores[number :: int(count)])


def pytest_unconfigure(config: pytest.Config) -> None:
    if place := config.stash.get(_IN_MEMORY, None):
        shutil.rmtree(place, ignore_errors=True)


def _place_files(config: pytest.Config) -> None:
    """Has the files of many tests in memory, where there is plenty: each of hundreds of ledgers waits for the disk at
    every commit. Those of a test that runs alone stay where pytest keeps them to be looked at."""
    many = config.getoption("numprocesses", None) and not config.getoption("--own-cores")
    if not many or config.getoption("basetemp") or not os.access(_SHM, os.W_OK):
        return
    for left in _SHM.glob("burnish-tests-*"):  # by a run that was killed
        owner = left.name.split("-")[2]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            shutil.rmtree(left, ignore_errors=True)
    if min(_memory(), shutil.disk_usage(_SHM).free) > _PLENTY:
        place = Path(tempfile.mkdtemp(prefix=f"burnish-tests-{os.getpid()}-", dir=_SHM))
        config.option.basetemp = config.stash[_IN_MEMORY] = place


def _memory() -> int:
    """Bytes of memory that may still be used; in a container its limit counts, as files in memory do."""
    free = psutil.virtual_memory().available
    for limit, used in _LIMITS:
        most, now = Path("/sys/fs/cgroup", limit), Path("/sys/fs/cgroup", used)
        if most.exists() and now.exists() and most.read_text().strip().isdigit():
            free = min(free, int(most.read_text()) - int(now.read_text()))
    return free


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
