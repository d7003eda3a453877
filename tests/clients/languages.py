"""How each language's examples are built and run. Where a toolchain is missing, so is the language, with a reason."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "clients"
BUILD = ROOT / "build" / "clients"
_OLDEST_NODE = 20  # as package.json says
# What npm says where there is no registry to be reached, or none that answers.
_NO_REGISTRY = re.compile("npm error code (ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|ERR_SOCKET|E429|E5|.*CERT)")


@dataclass(frozen=True)
class Language:
    """Commands of one language's examples; arguments follow."""

    score: tuple[str, ...]
    watch: tuple[str, ...] = ()


def typescript() -> Language:
    """Generates and compiles everything anew, as `make clients` does."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("TypeScript needs node and npm, and they are not here")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(node.lstrip("v").split(".")[0]) < _OLDEST_NODE:
        pytest.skip(f"TypeScript needs node {_OLDEST_NODE} or newer; this is {node.strip()}")
    done = _build("typescript")
    if done.returncode and _NO_REGISTRY.search(done.stderr):
        pytest.skip(f"TypeScript needs an npm registry: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    dist = BUILD / "typescript" / "dist"
    return Language(("node", str(dist / "score.js")), ("node", str(dist / "watch.js")))


def go() -> Language:
    """Generates and builds everything anew with the toolchain that `make clients` has fetched."""
    if not (BUILD / "go" / "bin" / "protoc-gen-go-grpc").exists():
        pytest.skip("Go's compiler and libraries are not in build/clients/go; `make clients` fetches them")
    done = _build("go")
    assert done.returncode == 0, done.stdout + done.stderr
    return Language((str(BUILD / "go" / "bin" / "score"),), (str(BUILD / "go" / "bin" / "watch"),))


def grpcurl_path() -> str:
    """Where grpcurl is."""
    found = shutil.which("grpcurl", path=f"{BUILD / 'grpcurl'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("grpcurl is neither on the PATH nor in build/clients/grpcurl; `make clients` fetches it")
    return found


def grpcurl() -> Language:
    """The example as it is."""
    grpcurl_path()
    return Language(("sh", str(EXAMPLES / "grpcurl" / "score.sh")))


def python() -> Language:
    """The example as it is."""
    return Language((sys.executable, str(EXAMPLES / "python" / "score.py")))


LANGUAGES = {"typescript": typescript, "go": go, "grpcurl": grpcurl, "python": python}


def run(command: tuple[str, ...], *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One run of an example, without the environment's own BURNISH_ variables."""
    return subprocess.run(
        [*command, *arguments], env=environment(env), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def environment(env: dict[str, str]) -> dict[str, str]:
    """What an example is run with."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("BURNISH_")}
    return own | {"PATH": f"{BUILD / 'grpcurl'}{os.pathsep}{own['PATH']}"} | env


@functools.cache  # several tests want it, and npm takes long to say that there is no registry
def _build(language: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "clients" / f"{language}.sh"
    return subprocess.run([str(script)], capture_output=True, text=True, timeout=280, check=False)
