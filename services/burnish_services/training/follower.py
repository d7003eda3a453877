"""`python -m burnish_services.training.follower`: the program of a follower, which `following.py` is."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from burnish_services.runtime import logs
from burnish_services.runtime.environment import EnvironmentSettings
from burnish_services.runtime.serve import EXIT_USAGE
from burnish_services.training.config import TrainingSettings
from burnish_services.training.following import Follower, Replaced
from burnish_services.training.nodes import Board

log = logging.getLogger("burnish_services.training.follower")  # not __name__, which is __main__ here

_EXIT_REPLACED = 1

_DESCRIPTION = """\
Train with a leader: a training service whose BURNISH_TRAINING_NODES is above 1, and whose state directory this machine
shares. Takes part in each of its runs, one after the other, until it is told to stop.
"""

_EPILOG = """\
example, with a leader whose BURNISH_TRAINING_NODES is 3:
  python -m burnish_services.training.follower --state-dir /state --node 1
  python -m burnish_services.training.follower --state-dir /state --node 2

Every option can be set in the environment as BURNISH_FOLLOWER_<OPTION>, such as BURNISH_FOLLOWER_NODE=2; options given
here win. BURNISH_TRAINING_LEASE_SECONDS and BURNISH_TRAINING_STOP_SECONDS are to be those of the leader.

stopping: SIGTERM or SIGINT has the run write a checkpoint, from which it goes on once a follower with this number is
back; a second signal ends the process at once.
exit codes: 143 or 130 stopped by SIGTERM or SIGINT; 1 another follower has this number now; 2 wrong usage, or the
state directory cannot be written.
"""


class FollowerSettings(EnvironmentSettings):
    """How one follower runs."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_FOLLOWER_", frozen=True, extra="forbid")

    state_dir: Path = Path("burnish-state")
    # From 1; the leader is 0. In an indexed Job of Kubernetes by the pod's index, which counts from 0.
    node: int = Field(default_factory=lambda: int(os.environ.get("JOB_COMPLETION_INDEX") or 0) + 1, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options that are not given stay out of the namespace, so that the environment decides."""
    parser = argparse.ArgumentParser(
        prog="python -m burnish_services.training.follower",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="the leader's, mounted at the same path (default: ./burnish-state)"
    )
    parser.add_argument(
        "--node",
        type=int,
        metavar="K",
        help="number of this follower, from 1, each once (default: JOB_COMPLETION_INDEX + 1 where that is set, else 1)",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    parser.add_argument("--log-format", choices=["text", "json"], help="default: text")
    return parser


async def follow(settings: FollowerSettings, training: TrainingSettings) -> int:
    """Follows until a signal, and returns the exit code."""
    stop = asyncio.Event()
    received: list[signal.Signals] = []

    def take(number: signal.Signals) -> None:
        if received:
            os._exit(128 + number)  # its part dies with it
        received.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, take, number)
    follower = Follower(
        Board(settings.state_dir / "training"),
        settings.node,
        lease_seconds=training.lease_seconds,
        stop_seconds=training.stop_seconds,
    )
    try:
        await follower.work(stop)
    except Replaced as error:
        log.error("%s", error)
        return _EXIT_REPLACED
    except OSError as error:
        sys.stderr.write(
            f"burnish follower: {settings.state_dir} cannot be used: {error}; expected the leader's state directory, "
            "which this process may write to\n"
        )
        return EXIT_USAGE
    return 128 + received[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a follower; returns the exit code."""
    given = vars(build_parser().parse_args(arguments))
    try:
        settings, training = FollowerSettings(**given), TrainingSettings()
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"burnish follower: {place}: {problem['msg']}\n")
        return EXIT_USAGE
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(follow(settings, training))


if __name__ == "__main__":
    sys.exit(main())
