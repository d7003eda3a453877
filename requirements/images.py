"""Pin what the container images install: write images/<role>-<device>.txt, images/sdk.txt and images/build.txt.

Run it through `make lock-images`, after `make lock`, whose versions these locks take wherever an image needs the same
package. Each lists what one image needs and no more, with the hashes of the wheels, for Python 3.11 on x86-64 Linux:
what the images have (deploy/docker/Dockerfile). Nothing large is downloaded, since pip resolves from metadata.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from lock import ALSO_FOR_CPU, HERE, LEFT_OUT, PROJECT, SHORTCUTS

# Older releases of pip download every wheel before they say what they chose.
PIP = "pip==26.3"
PYTHON = "3.11"
# Debian 12 has glibc 2.36, which runs what was built for any older one.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)] + ["manylinux2014_x86_64"]

# What the services import of the client's dependencies; the ledger's and the command's are not among it.
SHARED = ["googleapis-common-protos", "grpcio", "grpcio-health-checking", "jinja2", "numpy"]
SHARED += ["protobuf", "pydantic", "pydantic-settings"]
# The same of what `burnish[services]` lists. peft and accelerate: any role may be given an adapter, which it merges.
SERVING = ["grpcio-reflection", "obstore", "prometheus-client", "psutil"]
MODELS = ["accelerate", "peft", "safetensors", "tokenizers", "torch", "transformers"]
ROLES = {
    "scoring": [],  # rewriting needs the same
    "embedding": ["lancedb", "numba", "pyarrow", "scipy"],
    "training": ["fsspec"],
}
WITHOUT_VLLM = {"training"}

HEADER = """\
# {purpose}
# Written by requirements/images.py (`make lock-images`); install with `pip install --no-deps --require-hashes -r`.
"""


def declared(names: list[str]) -> list[str]:
    """The requirements of pyproject with these names, with its limits of versions."""
    extras = PROJECT["optional-dependencies"]
    known = {_name(line): line for line in [*PROJECT["dependencies"], *extras["services"], *extras["otel"]]}
    return [known[name] for name in names]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def locked(*names: str) -> list[str]:
    """The pins of locks beside this file, without what is no pin."""
    lines = [line for name in names for line in (HERE / name).read_text().splitlines()]
    return sorted({line for line in lines if re.match(r"[\w.-]+==", line)})


class Resolver:
    """pip, of a release that resolves from metadata alone, in an environment that is thrown away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        venv.create(folder / "pip", with_pip=True)
        self._pip = [folder / "pip/bin/python", "-m", "pip"]
        subprocess.run([*self._pip, "install", "--quiet", PIP], check=True)

    def resolve(self, wanted: list[str], constraints: list[str]) -> dict[str, tuple[str, str]]:
        """Name → (version, hash) of what pip would install."""
        limits, report = self._folder / "constraints.txt", self._folder / "report.json"
        limits.write_text("\n".join(constraints))
        where = ["--target", self._folder / "nowhere", "--python-version", PYTHON, "--only-binary", ":all:"]
        where += [part for platform in PLATFORMS for part in ("--platform", platform)]
        command = [*self._pip, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", report]
        subprocess.run([*command, *where, "--constraint", limits, *wanted], check=True)
        chosen = {}
        for item in json.loads(report.read_text())["install"]:
            hashes = item["download_info"]["archive_info"].get("hashes", {})
            chosen[item["metadata"]["name"]] = (item["metadata"]["version"], f"sha256:{hashes['sha256']}")
        return chosen


def write(name: str, purpose: str, chosen: dict[str, tuple[str, str]], left_out: set[str]) -> None:
    """Write one lock."""
    lines = []
    for package in sorted(chosen, key=str.lower):
        version, digest = chosen[package]
        if package.lower() not in left_out:
            lines.append(f"{package}=={version} --hash={digest}")
    (HERE / "images" / name).write_text(HEADER.format(purpose=purpose) + "\n".join(lines) + "\n")
    print(f"images/{name}: {len(lines)} pins")


def main() -> None:
    """Resolve each image's packages, on the versions of the other locks."""
    only = set(sys.argv[1:])
    (HERE / "images").mkdir(exist_ok=True)
    extras = PROJECT["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        resolver = Resolver(Path(folder))

        def lock(name: str, purpose: str, wanted: list[str], constraints: list[str], left_out: set[str]) -> None:
            if not only or name in only:
                write(f"{name}.txt", purpose, resolver.resolve(wanted, constraints), left_out)

        pinned = locked("cpu.txt")
        lock("build", "What makes the wheel.", ["hatchling"], locked("dev.txt"), set())
        lock("sdk", "The client alone.", [*PROJECT["dependencies"], *extras["otel"]], pinned, set())
        for role, own in ROLES.items():
            wanted = [*declared([*SHARED, *SERVING, *MODELS, *own]), *extras["otel"]]
            vllm = role not in WITHOUT_VLLM
            cpu = [*(extras["cpu"][-1:] if vllm else []), *ALSO_FOR_CPU]
            # +cpu: PyPI's own build of torch is CUDA's.
            lock(
                f"{role}-cpu", f"The {role} role on a CPU.", [*wanted, *cpu],
                [pin.replace("torch==2.13.0", "torch==2.13.0+cpu") for pin in pinned], LEFT_OUT,
            )  # fmt: skip
            cuda = extras["gpu"][-1:] if vllm else extras["liger"]
            lock(
                f"{role}-cuda", f"The {role} role on a GPU.", [*wanted, *cuda], cuda_constraints(pinned), set(),
            )  # fmt: skip


def cuda_constraints(pinned: list[str]) -> list[str]:
    """The CPU's pins, but for what vLLM's build for CUDA pins itself; torch of PyPI, which is CUDA's."""
    differ = {"torch", "apache-tvm-ffi"}
    return [pin for pin in pinned if _name(pin) not in differ] + ["torch===2.13.0", *SHORTCUTS]


if __name__ == "__main__":
    main()
