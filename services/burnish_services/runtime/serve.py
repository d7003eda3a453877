"""Runs a server until a signal, the parent's end or a dead engine stops it; says with which exit code.

Exit codes: 0 stopped on request; 1 the engine died, object storage with its model cannot be reached, or something
unexpected happened; 2 the model or the
settings are no good, or the port is taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from functools import partial
from importlib import metadata

from burnish_services.engine.base import EngineDead, ModelLoadError, ModelUnreachable
from burnish_services.engine.factory import EngineUnavailable, create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.lifecycle import Lifecycle
from burnish_services.runtime.listening import BindError
from burnish_services.runtime.role import RoleUnavailable
from burnish_services.runtime.server import AccessError, Server

log = logging.getLogger(__name__)

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def burnish_version() -> str:
    """Version of the installed distribution; from a bare checkout `0+checkout`."""
    try:
        return metadata.version("burnish")
    except metadata.PackageNotFoundError:
        return "0+checkout"


async def serve(settings: ServerSettings) -> int:
    """Serves until stopped and returns the exit code; problems are told on standard error."""
    _end_on_signals()
    try:
        server = Server(settings, partial(create_engine, settings.engine), version=burnish_version())
    except (AccessError, ModelLoadError, EngineUnavailable, RoleUnavailable) as error:
        return _complain(error, EXIT_USAGE)
    lifecycle = server.lifecycle
    _stop_on_signals(lifecycle)
    if settings.exit_with_parent:
        _stop_with_parent(lifecycle)
    try:
        return await _start_and_wait(server)
    finally:
        await server.stop()


async def _start_and_wait(server: Server) -> int:
    starting = asyncio.ensure_future(server.start())
    stop = asyncio.ensure_future(server.lifecycle.stop_requested.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return EXIT_STOPPED
    try:
        starting.result()
    except (ModelLoadError, BindError) as error:
        stop.cancel()
        return _complain(error, EXIT_FAILED if isinstance(error, ModelUnreachable) else EXIT_USAGE)
    except Exception as error:
        stop.cancel()
        if not isinstance(error, EngineDead):
            log.exception("start failed")
        return _complain(error, EXIT_FAILED)
    watching = asyncio.ensure_future(server.engines.watch())
    await asyncio.wait({stop, watching}, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        server.lifecycle.fail(watching.exception() or EngineDead("the engines' watch ended"))
    watching.cancel()
    stop.cancel()
    if server.lifecycle.failure is not None:
        return _complain(server.lifecycle.failure, EXIT_FAILED)
    return EXIT_STOPPED


def _complain(error: BaseException, code: int) -> int:
    kind = {EXIT_USAGE: "cannot start", EXIT_FAILED: "failed"}[code]
    sys.stderr.write(f"burnish services: {kind}: {str(error) or type(error).__name__}\n")
    sys.stderr.flush()
    return code


def _end_on_signals() -> None:
    """While roles wait for an earlier server's end, where nothing is to be stopped yet; also as the first process of a
    container, which the kernel sends no signal that nobody handles."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _stop_on_signals(lifecycle: Lifecycle) -> None:
    loop = asyncio.get_running_loop()
    came: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        # Not any wish before it: a parent closes the pipe of --exit-with-parent and sends a signal, to be sure.
        if came:
            os._exit(128 + number)
        came.append(number)
        lifecycle.request_stop(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _stop_with_parent(lifecycle: Lifecycle) -> None:
    loop = asyncio.get_running_loop()

    def watch() -> None:
        # Not sys.stdin: a thread waiting in it would hold its lock when the interpreter ends.
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        loop.call_soon_threadsafe(lifecycle.request_stop, "standard input ended (--exit-with-parent)")

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
