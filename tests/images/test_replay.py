"""The command's image, installed by the Dockerfile's own lines: it works, without root, on a read-only file system, and
has nothing of an engine. `make images-check` does the same for the services, which are gigabytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.images import check
from tools.images.recipe import UID

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tried() -> Iterator[check.Tried]:
    # Not in pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="burnish-images-"))
    folder.chmod(0o755)
    yield check.made("sdk", folder)
    shutil.rmtree(folder)


def test_the_command_works_and_knows_that_it_has_no_engine(tried: check.Tried) -> None:
    assert check.try_sdk(tried)["version"].startswith("burnish ")


def test_it_has_neither_torch_nor_anything_that_serves(tried: check.Tried) -> None:
    assert set(tried.missing(check.WITHOUT["sdk"])) == set(check.WITHOUT["sdk"])
    imported = tried.run(tried.python, "-c", "import torch", check=False)
    assert "No module named 'torch'" in imported.stderr
    assert not tried.missing(["burnish", "duckdb", "opentelemetry"])


def test_it_has_no_pip_and_no_trace_of_where_packages_came_from(tried: check.Tried) -> None:
    assert tried.missing(["pip"]) == ["pip"]
    assert not list(tried.replay.path("/opt/burnish").rglob("pip.conf"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")
def test_it_writes_where_the_mounts_are_and_nowhere_else(tried: check.Tried) -> None:
    inside = tried.replay.folder
    places = [f"{inside}/{place}/x" for place in ("runs", "tmp", "opt")]
    done = tried.run("sh", "-c", 'id -u; touch "$@" /etc/x', "sh", *places, check=False)
    assert done.stdout.split() == [str(UID)]
    assert done.stderr.count("Read-only file system") == 2
    assert (inside / "runs/x").exists()
