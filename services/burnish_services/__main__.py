"""`python -m burnish_services`: one or several services in one process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from burnish_services.runtime import logs
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.runtime.serve import EXIT_USAGE, burnish_version, serve

log = logging.getLogger("burnish_services")  # not __name__, which is __main__ here

_DESCRIPTION = """\
Run Burnish services: scoring, embedding, rewriting and training over gRPC.

One process holds one model per kind of work (scoring and rewriting share one, embedding has its own) and answers on
one port. Requests name the weights they want; a process that holds others swaps them in place.
"""

_EPILOG = """\
examples:
  python -m burnish_services --roles all --model ./smollm2 --port 50051
  python -m burnish_services --roles scoring --model ./smollm2 --cpu-cores 0-1 --compile
  python -m burnish_services --roles training --state-dir /data/burnish
  python -m burnish_services --roles all --engine fake --model ./fake-model     (no device needed; for tests)

Every option can be set in the environment as BURNISH_SERVER_<OPTION>, such as BURNISH_SERVER_PORT=50051; options
given here win. Limits of a service are set as BURNISH_<SERVICE>_…, such as BURNISH_SCORING_MAX_ITEMS.

stopping: SIGTERM or SIGINT lets running calls finish (--grace); a second signal ends the process at once.
exit codes: 0 stopped on request; 1 the engine died, or object storage with the model cannot be reached; 2 wrong usage,
no such model, or the port is taken.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options that are not given stay out of the namespace, so that the environment
    decides."""
    parser = argparse.ArgumentParser(
        prog="python -m burnish_services",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--roles", metavar="ROLE,…", help=f"services to run: {', '.join(ALL_ROLES)}, or all (default: all)"
    )
    what.add_argument("--engine", choices=["vllm", "transformers", "fake"], help="default: vllm")
    what.add_argument(
        "--model", metavar="DIR", help="model held first, or s3://…; required unless only training runs here"
    )
    what.add_argument("--chat-template", metavar="NAME|FILE", help="instead of the model's own")
    what.add_argument(
        "--state-dir",
        metavar="DIR",
        help="vectors, training runs, models from object storage (default: ./burnish-state)",
    )
    what.add_argument(
        "--model-cache-bytes", type=int, metavar="N", help="of models from object storage kept there (default: 200 GiB)"
    )
    where = parser.add_argument_group("where to listen")
    where.add_argument("--host", help="address to bind (default: 127.0.0.1)")
    where.add_argument("--port", type=int, help="0 takes a free one (default: 0)")
    where.add_argument(
        "--insecure", action="store_true", help="let other machines reach --host without encryption or login"
    )
    where.add_argument("--tls-cert", metavar="FILE", help="certificate and chain, PEM; read anew when it changes")
    where.add_argument("--tls-key", metavar="FILE", help="its key, PEM, without a password")
    where.add_argument("--tls-client-ca", metavar="FILE", help="clients must show a certificate of these authorities")
    where.add_argument("--tokens", metavar="FILE", help="TOML file of the tokens that callers show; see docs/access.md")
    where.add_argument("--guard-health", action="store_true", help="health checks must show a token as well")
    where.add_argument(
        "--read-roots", metavar="DIR,…", help="callers may name models and data in there only; or s3://…"
    )
    where.add_argument("--write-roots", metavar="DIR,…", help="… have models written in there only, and read them")
    where.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="serve metrics to Prometheus here, without login; 0 takes a free one (default: no metrics)",
    )
    where.add_argument("--metrics-host", metavar="HOST", help="address of that port (default: that of --host)")
    where.add_argument(
        "--health-port",
        type=int,
        metavar="PORT",
        help="answer health checks here as well, without TLS and login, and nothing else; 0 takes a free one (default:"
        " no such port)",
    )
    where.add_argument(
        "--max-connection-age",
        type=float,
        metavar="SECONDS",
        help="ask clients to reconnect this often, so that they find new replicas; 0 never (default)",
    )
    where.add_argument(
        "--max-message-bytes", type=int, metavar="N", help="largest message received or sent (default: 64 MiB)"
    )
    where.add_argument(
        "--max-bytes-in-flight", type=int, metavar="N", help="in messages of all calls in progress (default: 1 GiB)"
    )
    where.add_argument("--max-calls", type=int, metavar="N", help="calls and streams in progress (default: 1024)")
    where.add_argument(
        "--receive-timeout", type=float, metavar="SECONDS", help="that a message may take to arrive (default: 60)"
    )
    where.add_argument(
        "--max-pending",
        type=int,
        metavar="SECONDS",
        help="that a call waits for a server with too much to do; less than callers' deadlines (default: 5)",
    )
    where.add_argument(
        "--keepalive", type=float, metavar="SECONDS", help="between pings that find stuck clients (default: 60)"
    )
    where.add_argument(
        "--ready-file",
        metavar="FILE",
        help="written as JSON (pid, address, roles, metrics, health) once calls are answered",
    )
    device = parser.add_argument_group("device")
    device.add_argument(
        "--dtype",
        choices=["auto", "bfloat16", "float16", "float32"],
        help="number format of models (default: auto, the models' own, or float32 where a CPU would emulate it)",
    )
    device.add_argument("--max-model-len", type=int, metavar="TOKENS", help="default: the model's own context")
    device.add_argument("--memory-mib", type=int, metavar="N", help="KV cache of each engine (default: the engine's)")
    device.add_argument(
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="of each GPU's memory, for all engines of this process (vLLM; default: 0.9, 0.5 beside training)",
    )
    device.add_argument(
        "--tensor-parallel-size",
        type=int,
        metavar="N",
        help="GPUs that each layer is divided among (vLLM; default: 1)",
    )
    device.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="tokens computed together (transformers; default: every sequence alone on a CPU, 16384 on a GPU)",
    )
    device.add_argument("--cpu-cores", metavar="LIST", help="cores for vLLM on CPU, such as 0-1")
    device.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the model: slower to start, faster to run (vLLM; default: no)",
    )
    life = parser.add_argument_group("life")
    life.add_argument("--grace", type=float, metavar="SECONDS", help="for running calls at a stop (default: 30)")
    life.add_argument(
        "--engine-restarts",
        type=int,
        metavar="N",
        help="start an engine anew whose process ended, at most so often in ten minutes (default: 3)",
    )
    life.add_argument(
        "--exit-with-parent", action="store_true", help="stop when standard input ends, as it does with the parent"
    )
    life.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    life.add_argument("--log-format", choices=["text", "json"], help="default: text")
    parser.add_argument("--version", action="version", version=f"burnish {burnish_version()}")
    return parser


def resolve_settings(arguments: Sequence[str]) -> ServerSettings:
    """Settings from the command line and the environment. Ends the process with code 2 and one paragraph on
    standard error where they make no sense."""
    parser = build_parser()
    given = vars(parser.parse_args(arguments))
    try:
        return ServerSettings(**given)
    except ValidationError as error:
        sys.stderr.write("".join(f"burnish services: {_complaint(problem)}\n" for problem in error.errors()))
        raise SystemExit(EXIT_USAGE) from None


def _complaint(problem: object) -> str:
    assert isinstance(problem, dict)
    message = str(problem["msg"]).removeprefix("Value error, ")
    option = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
    return f"--{option}: {message}" if option else message


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the services; returns the exit code."""
    settings = resolve_settings(sys.argv[1:] if arguments is None else arguments)
    logs.configure(settings.log_level, settings.log_format)
    log.info("settings", extra={key: str(value) for key, value in settings.model_dump().items()})
    return asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
