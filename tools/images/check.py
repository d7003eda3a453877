"""Makes and tries what each image would have, without a container engine: `make images-check`.

    python -m tools.images.check [TARGET …] [--engine vllm --model DIR] [--keep FOLDER]

Each target is installed by the Dockerfile's own lines; every module of its role is imported; what it must
not have is looked for; its server is started, without privileges and with nothing to write to but the mounts that
docs/images.md names, and asked for its health. Prints sizes and times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.images.recipe import ROLES, TARGETS, Recipe
from tools.images.replay import Replay, confined

# Large, and of no use there. vLLM asks for numba itself.
WITHOUT = {
    "scoring": ["duckdb", "lancedb", "pyarrow", "scipy"],
    "rewriting": ["duckdb", "lancedb", "pyarrow", "scipy"],
    "embedding": ["duckdb"],
    "training": ["duckdb", "lancedb", "llvmlite", "numba", "scipy", "vllm"],
    "sdk": ["accelerate", "lancedb", "numba", "torch", "transformers", "vllm"],
}
# Everything that a role's process or its workers may import.
_IMPORTS = """
import importlib, pkgutil, sys
role, skipped = sys.argv[1], tuple(sys.argv[2:])
names = []
for package in (f"burnish_services.{role}", "burnish_services.engine", "burnish_services.runtime"):
    found = importlib.import_module(package)
    names += [m.name for m in pkgutil.walk_packages(found.__path__, package + ".") if not m.name.startswith(skipped)]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
# umap is an extra that no image has; burnish_services.engine.vllm_… is what a role without vLLM does without.
_NEVER = ["burnish_services.embedding.projection_umap"]
_NOT_IN = {"training": ["burnish_services.engine.vllm_engine", "burnish_services.engine.vllm_plugin."]}


class Tried:
    """One target that was made, and what is run in it."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.python = str(replay.path("/opt/burnish/bin/python"))
        self.env = replay.environment()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command as the image would run it."""
        confined_command = confined(self.replay, list(command))
        where = self.replay.folder
        done = subprocess.run(confined_command, env=self.env, cwd=where, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def missing(self, modules: list[str]) -> list[str]:
        """Those of the modules that cannot be found."""
        code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if not u.find_spec(m.split('.')[-1])])"
        return self.run(self.python, "-c", code, *modules).stdout.split()

    def serve(self, *arguments: str, seconds: float = 900.0) -> Served:
        """Starts the image's own entry point with arguments appended, and waits until its probe is content."""
        entry = [self.replay.mapped(word) for word in self.replay.recipe.image(self.replay.target).entrypoint.words]
        return Served(self, [*entry, *arguments], seconds)


class Served:
    """A server that answers. Use as a context manager, which stops it."""

    def __init__(self, tried: Tried, command: list[str], seconds: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        env = tried.env | {"BURNISH_SERVER_PORT": str(port), "BURNISH_SERVER_HOST": "127.0.0.1"}
        self._log = tried.replay.folder / "server.log"
        began = time.monotonic()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                confined(tried.replay, command), env=env, cwd=tried.replay.path("/state"), stderr=log, stdout=log
            )
        try:
            self._wait(tried, began + seconds)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.seconds = time.monotonic() - began

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def _wait(self, tried: Tried, give_up: float) -> None:
        while True:
            # A fast look at the port first: a probe's own start takes as long as the server's.
            with socket.socket() as looking:
                listening = looking.connect_ex(("127.0.0.1", int(self.address.rsplit(":")[1]))) == 0
            if listening:
                probe = tried.run(tried.python, "-m", "burnish_services.probe", self.address, check=False)
                if probe.returncode == 0:
                    return
                time.sleep(0.5)
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"the server does not serve: {self.log}")
            time.sleep(0.05)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end the server: {self.log}") from None


def made(target: str, folder: Path, device: str = "cpu") -> Tried:
    """A target, installed in `folder`, which any user may read."""
    folder.mkdir(parents=True, exist_ok=True)
    replay = Replay(Recipe({"BASE": "scratch", "DEVICE": device}), target, folder)
    replay.make()
    return Tried(replay)


def fake_model(folder: Path) -> Path:
    """A model for the fake engine, where a container would have one mounted."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "fake_model.json").write_text(json.dumps({"name": "fake"}))
    return model


def megabytes(folder: Path) -> int:
    """What a folder takes on disk, in 10⁶ bytes."""
    paths = (path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_blocks * 512 for path in paths) // 10**6


def try_role(tried: Tried, role: str, engine: str, model: Path) -> dict[str, object]:
    """Imports, health and stop of one role's image. Raises AssertionError."""
    found: dict[str, object] = {}
    assert "usage: python -m burnish_services" in tried.run(tried.python, "-m", "burnish_services", "--help").stdout
    skipped = [*_NEVER, *_NOT_IN.get(role, [])]
    found["modules"] = int(tried.run(tried.python, "-c", _IMPORTS, role, *skipped).stdout.split()[-1])
    with tried.serve("--engine", "fake", "--model", str(fake_model(tried.replay.folder))) as first:
        found["serving_first_s"] = round(first.seconds, 1)
    assert first.process.returncode == 0, first.log
    with tried.serve("--engine", "fake", "--model", str(fake_model(tried.replay.folder))) as again:
        found["serving_s"] = round(again.seconds, 1)
    if engine != "fake" and role != "training":
        with tried.serve("--engine", engine, "--model", str(model)) as real:
            found[f"serving_{engine}_s"] = round(real.seconds, 1)
    return found


def try_sdk(tried: Tried) -> dict[str, object]:
    """The command alone: its version, and what it says of a machine without engines. Raises AssertionError."""
    command = str(tried.replay.path("/opt/burnish/bin/burnish"))
    version = tried.run(command, "--version").stdout.strip()
    doctor = tried.run(command, "doctor", "--json", check=False)
    said = json.loads(doctor.stdout)
    assert said["engine"] is None, said
    assert doctor.returncode == 1, said
    return {"version": version}


def check(
    target: str, folder: Path, engine: str = "fake", model: Path = Path(), device: str = "cpu"
) -> dict[str, object]:
    """Makes and tries one target; what was measured. Raises AssertionError and CalledProcessError."""
    began = time.monotonic()
    tried = made(target, folder, device)
    found: dict[str, object] = {"target": target, "install_s": round(time.monotonic() - began)}
    found["size_mb"] = megabytes(folder / "opt/burnish")
    wanted = WITHOUT[target]
    there = sorted({name.split(".")[-1] for name in wanted} - set(tried.missing(wanted)))
    assert not there, f"{target} has {', '.join(there)}, which it has no use for"
    return found | (try_role(tried, target, engine, model) if target in ROLES else try_sdk(tried))


def main() -> int:
    """Tries the targets named, or all; returns 1 where one is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tools.images.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument(
        "--engine", default="fake", choices=["fake", "transformers", "vllm"], help="to serve on as well"
    )
    parser.add_argument("--model", type=Path, default=Path(), help="a real model, for a real engine")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="whose packages")
    parser.add_argument("--keep", type=Path, help="a folder in which what was made stays")
    given = parser.parse_args()
    failed = False
    for target in given.targets:
        folder = Path(given.keep or tempfile.mkdtemp(prefix="burnish-images-")) / target
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(0o755)
        try:
            sys.stdout.write(
                json.dumps(check(target, folder, given.engine, given.model.absolute(), given.device)) + "\n"
            )
            sys.stdout.flush()
        except (AssertionError, subprocess.CalledProcessError) as error:
            failed = True
            sys.stderr.write(f"{target}: {error}\n")
        finally:
            if not given.keep:
                shutil.rmtree(folder.parent, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
