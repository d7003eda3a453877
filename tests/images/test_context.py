"""What a build sees of a checkout: .dockerignore lets in what the Dockerfile copies and keeps everything else out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.images.recipe import ROOT, Recipe

WANTED = ["LICENSE", "README.md", "pyproject.toml", "client/burnish/py.typed", "services/burnish_services/__main__.py"]
WANTED += [
    "requirements/images/sdk.txt",
    "client/burnish/data/demo.jsonl",
    "services/burnish_services/runtime/tokens.py",
]
UNWANTED = [
    ".git/config",
    ".venv/bin/python",
    "build/models/m/model.safetensors",
    "runs/first/ledger.duckdb",
    "state/training/x",
    "burnish-state/training/x",
    "server.pem",
    "server.key",
    "tokens.toml",
    ".env",
    "pip.conf",
    "tests/unit/test_audit.py",
    "requirements/lock.py",
    "docs/images.md",
    "deploy/compose.yaml",
    "client/server.pem",
    "client/burnish/my.key",
    "services/.env",
    "services/burnish_services/.env.local",
    "services/my-tokens.toml",
    "client/runs/first/ledger.duckdb",
    "client/burnish-state/x",
    "client/burnish/__pycache__/_client.cpython-311.pyc",
    "client/burnish.egg-info/PKG-INFO",
]


def is_sent(path: str) -> bool:
    """Whether the builder gets a file, by the rules of .dockerignore: the last pattern that matches it, or a folder in
    which it lies, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            pattern = _pattern(line.removeprefix("!"))
            if any(pattern.fullmatch(part) for part in (path, *map(str, Path(path).parents))):
                sent = line.startswith("!")
    return sent


def _pattern(glob: str) -> re.Pattern[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", glob)))


@pytest.mark.parametrize("path", WANTED)
def test_what_the_wheel_is_made_of_is_sent(path: str) -> None:
    assert (ROOT / path).is_file()
    assert is_sent(path)


@pytest.mark.parametrize("path", UNWANTED)
def test_what_is_secret_large_or_of_no_use_is_not(path: str) -> None:
    assert not is_sent(path)


def test_all_that_the_dockerfile_copies_is_there_and_is_sent() -> None:
    stages = [stage for device in ("cpu", "cuda") for stage in Recipe({"BASE": "x", "DEVICE": device}).stages.values()]
    copies = [step for stage in stages for step in stage.steps if step.command == "COPY"]
    for source in {word for step in copies if not step.flags for word in step.words[:-1]}:
        place = ROOT / source
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        paths = [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]
        assert paths, f"the Dockerfile copies {source}, which is not there"
        assert all(map(is_sent, paths)), [path for path in paths if not is_sent(path)]
