"""The options that say which services a command uses, and the services themselves.

`with_services` gives a command these options and a ready client; without any endpoint, what the command needs is
started on this machine and stopped again afterwards. Both take the same path through the SDK and gRPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish._client import Client
from burnish._endpoints import SERVICES, Endpoints
from burnish._errors import StartFailed, Unreachable, UsageError
from burnish._security import Security
from burnish._settings import Settings, load_settings
from burnish.cli.expanding import expanding
from burnish.cli.output import errors
from burnish.coordinator.paths import is_hub_name, is_remote
from burnish.local import EngineOptions, LocalServices, divided

_WHERE = "Where the services are"
_LOCAL = "Services started here"
_FROM_HUB = (
    " Burnish asks no hub. If it is a model's name on one, fetch it first: hf download {0} --local-dir my-model, and"
    " give --model ./my-model."
)


def _option(kind: Any, flag: str, text: str, panel: str, **more: Any) -> Any:
    return Annotated[kind, typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)]


# Parameter name -> annotation; all default to None, which leaves the word to the environment and burnish.toml.
_ELSEWHERE: dict[str, Any] = {
    "endpoint": _option(str | None, "--endpoint", "Address of a server with all services, host:port.", _WHERE),
    **{
        f"{service}_endpoint": _option(
            str | None, f"--{service}-endpoint", f"Address of the {service} service, host:port.", _WHERE
        )
        for service in SERVICES
    },
    "tls": _option(bool | None, "--tls/--no-tls", "Reach them by TLS.", _WHERE),
    "tls_ca": _option(Path | None, "--tls-ca", "Authorities to trust, PEM; turns TLS on.", _WHERE, metavar="FILE"),
    "tls_cert": _option(Path | None, "--tls-cert", "Certificate to show, PEM; turns TLS on.", _WHERE, metavar="FILE"),
    "tls_key": _option(Path | None, "--tls-key", "Its key, PEM.", _WHERE, metavar="FILE"),
    "token_file": _option(
        Path | None, "--token-file", "Token to show with every call; or BURNISH_TOKEN.", _WHERE, metavar="FILE"
    ),
    "config": _option(Path | None, "--config", "Settings file instead of ./burnish.toml.", _WHERE, metavar="FILE"),
}
_HERE: dict[str, Any] = {
    "engine": _option(str | None, "--engine", "vllm, transformers or fake; default: the best installed.", _LOCAL),
    "dtype": _option(
        str | None,
        "--dtype",
        "auto (the model's own, or float32 where a CPU would emulate it), bfloat16, float16, float32.",
        _LOCAL,
    ),
    "max_model_len": _option(int | None, "--max-model-len", "Context in tokens; default: the model's.", _LOCAL),
    "memory_mib": _option(
        int | None, "--memory-mib", "KV cache of each engine, MiB; default: the engine's own.", _LOCAL
    ),
    "gpu_memory_utilization": _option(
        float | None,
        "--gpu-memory-utilization",
        "Share of each GPU's memory for the engines; default 0.9, and 0.5 where training runs here as well.",
        _LOCAL,
    ),
    "tensor_parallel_size": _option(
        int | None, "--tensor-parallel-size", "GPUs that each layer is divided among; default 1.", _LOCAL
    ),
    "batch_tokens": _option(
        int | None,
        "--batch-tokens",
        "Tokens that the transformers engine computes together; default: each sequence alone on a CPU, 16384 on a GPU.",
        _LOCAL,
    ),
    "cpu_cores": _option(str | None, "--cpu-cores", "Cores to bind to, such as 0-1.", _LOCAL),
    "compile": _option(bool | None, "--compile/--no-compile", "Let vLLM compile: slower start, faster steps.", _LOCAL),
    "chat_template": _option(
        str | None, "--chat-template", "Chat template instead of the model's own: a name or a file.", _LOCAL
    ),
    "separate": _option(bool | None, "--separate", "One process per service instead of one for all.", _LOCAL),
    "state_dir": _option(
        Path | None,
        "--state-dir",
        "Where vectors, training runs and logs are kept; default: ./burnish-state, of a run DIR/services.",
        _LOCAL,
        metavar="DIR",
    ),
}
OPTIONS = _ELSEWHERE | _HERE
_NOT_SETTINGS = ("endpoint", "config", "separate", "state_dir")


@dataclass(frozen=True, slots=True)
class ServiceChoice:
    """What the user said about services, resolved."""

    settings: Settings
    endpoints: Endpoints
    separate: bool
    state_dir: Path | None

    def with_context(self, max_model_len: int) -> ServiceChoice:
        """The same, with another context for services started here."""
        return replace(self, settings=self.settings.model_copy(update={"max_model_len": max_model_len}))

    @contextmanager
    def client(
        self,
        roles: Sequence[str],
        model: str,
        state_dir: Path,
        *,
        models: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> Iterator[Client]:
        """A client to `roles`, started here where no address is configured for any: with `model` loaded first, or what
        `models` names for a role. An engine keeps to the shape of its first model, so that roles with models of their
        own have processes of their own."""
        configured = [role for role in roles if getattr(self.endpoints, role)]
        if configured:
            for role in roles:
                self.endpoints.address(role)  # raises with advice where only some are configured
            with Client(self.endpoints, options=self.settings.client_options) as client:
                yield client
            return
        groups: dict[str, list[str]] = {}
        for role in roles:
            groups.setdefault((models or {}).get(role, model), []).append(role)
        for first in groups:
            self.check_model(first)
        with ExitStack() as stack:
            addresses: dict[str, str] = {}
            running: list[LocalServices] = []
            shared = divided(self.settings.engine_options, list(groups.values()))
            for first, group in groups.items():
                started = stack.enter_context(self._local(group, first, state_dir, shared, quiet=quiet))
                running.append(started)
                addresses |= {role: started.endpoints.address(role) for role in group}
            # These are on this machine, and ask nobody who they are.
            options = replace(self.settings.client_options, security=Security())
            try:
                yield stack.enter_context(Client(Endpoints(**addresses), options=options))
            except Unreachable as error:
                dead = [said for one in running if (said := one.failure())]
                if dead:
                    raise StartFailed("\n".join(dead)) from error
                raise

    def check_model(self, model: str) -> None:
        """Raises UsageError where services that are started here would find no model at `model`."""
        if self.settings.engine == "fake" or is_remote(model) or (Path(model) / "config.json").is_file():
            return
        raise UsageError(
            f"{model} is no model: expected a directory in the Hugging Face layout, with config.json, "
            "*.safetensors and tokenizer files, or its place in object storage (s3://BUCKET/PREFIX)."
            + (_FROM_HUB.format(model) if is_hub_name(model) else "")
        )

    def _local(
        self, roles: Sequence[str], model: str, state_dir: Path, options: EngineOptions, *, quiet: bool
    ) -> LocalServices:
        return LocalServices(
            roles,
            engine=self.settings.engine,
            model=model,
            state_dir=self.state_dir or state_dir,
            separate=self.separate,
            options=options,
            start_timeout=self.settings.start_timeout,
            on_progress=None if quiet else start_note,
        )


def start_note(text: str) -> None:
    """Shows how far services are with starting; only to a person who watches."""
    if errors.is_terminal:
        errors.print(text.splitlines()[0][: errors.width], style="dim", markup=False)


def resolve(chosen: dict[str, Any]) -> ServiceChoice:
    """Flags over environment over burnish.toml over defaults. Raises SettingsError, UsageError."""
    flags = {name: value for name, value in chosen.items() if name not in _NOT_SETTINGS and value is not None}
    if chosen.get("endpoint"):
        named = [f"--{s}-endpoint" for s in SERVICES if f"{s}_endpoint" in flags]
        if named:
            raise UsageError(f"--endpoint names all services; it does not go together with {', '.join(named)}.")
        flags |= {f"{service}_endpoint": chosen["endpoint"] for service in SERVICES}
    settings = load_settings(flags, config=chosen["config"])
    return ServiceChoice(settings, settings.endpoints, bool(chosen["separate"]), chosen["state_dir"])


# Adds OPTIONS to a command that has a parameter `services: ServiceChoice`.
with_services = expanding(
    {name: (annotation, None) for name, annotation in OPTIONS.items()},
    ["services"],
    lambda chosen: {"services": resolve(chosen)},
)
# The same for a command that starts services whatever there are elsewhere.
with_services_here = expanding(
    {name: (annotation, None) for name, annotation in ({"config": OPTIONS["config"]} | _HERE).items()},
    ["services"],
    lambda chosen: {"services": resolve(chosen)},
)
