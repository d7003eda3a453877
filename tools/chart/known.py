"""The settings of servers and commands, as the chart may give them: asked of the programs themselves."""

from __future__ import annotations

from typing import Any

import typer.main
from pydantic import BaseModel

from burnish._settings import Settings
from burnish.cli.run import RECIPES, run_app
from burnish.cli.services import OPTIONS as SERVICE_OPTIONS
from burnish_services.__main__ import build_parser
from burnish_services.embedding.config import EmbeddingSettings
from burnish_services.rewriting.config import RewritingSettings
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.scoring.config import ScoringSettings
from burnish_services.training.config import TrainingSettings

SERVICES: dict[str, type[BaseModel]] = {
    "scoring": ScoringSettings,
    "embedding": EmbeddingSettings,
    "rewriting": RewritingSettings,
    "training": TrainingSettings,
}
assert tuple(SERVICES) == ALL_ROLES
# What the chart says itself, by values of their own, or what makes no sense in a container.
_SERVER_OWN = {
    "roles", "engine", "model", "host", "port", "insecure", "tls_cert", "tls_key", "tls_client_ca", "tokens",
    "guard_health", "read_roots", "write_roots", "metrics_port", "metrics_host", "health_port", "state_dir",
    "ready_file", "exit_with_parent", "grace",
}  # fmt: skip
_SERVICE_OWN = {"embedding": {"store_uri"}, "training": {"nodes", "rendezvous", "fake_step_seconds"}}
# Of the client: access is filled in, secrets have no place in a ConfigMap, and no services are started in the Job.
_CLIENT_OWN = {
    "tls", "tls_ca", "tls_cert", "tls_key", "token", "token_file", "engine", "dtype", "max_model_len", "memory_mib",
    "cpu_cores", "batch_tokens", "chat_template", "compile", "start_timeout",
}  # fmt: skip
_COMMAND_OWN = {"data", "model", "out", "help", *SERVICE_OPTIONS}


def _schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Of each setting, what JSON schema says about its values, without titles and defaults."""
    properties = model.model_json_schema()["properties"]
    return {name: _plain(schema) for name, schema in properties.items()}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    several = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    if several:
        schema = several[0]
    if schema.get("type") == "array":  # of words, given as one word with commas
        return {"type": "string"}
    return {key: value for key, value in schema.items() if key not in ("title", "default", "description", "format")}


def server_options() -> dict[str, dict[str, Any]]:
    """Options of `python -m burnish_services` by their names there."""
    flags = {action.dest for action in build_parser()._actions}
    return {
        name.replace("_", "-"): schema
        for name, schema in _schemas(ServerSettings).items()
        if name in flags - _SERVER_OWN
    }


def service_settings(service: str) -> dict[str, dict[str, Any]]:
    """Variables of a service, by what follows BURNISH_<SERVICE>_, in small letters."""
    own = _SERVICE_OWN.get(service, set())
    return {name: schema for name, schema in _schemas(SERVICES[service]).items() if name not in own}


def client_settings() -> dict[str, dict[str, Any]]:
    """Settings of burnish.toml."""
    return {name: schema for name, schema in _schemas(Settings).items() if name not in _CLIENT_OWN}


def recipe_options() -> dict[str, list[str]]:
    """Of each recipe, the options of `burnish run RECIPE` by their names there, `--no-…` among them."""
    commands: Any = typer.main.get_command(run_app)
    found = {}
    for recipe in RECIPES:
        parameters = [p for p in commands.commands[recipe].params if p.name not in _COMMAND_OWN]
        names = {option for p in parameters for option in (*p.opts, *p.secondary_opts) if option.startswith("--")}
        found[recipe] = sorted(name.removeprefix("--") for name in names)
    return found
