"""Whatever the chart tells a program, the program knows: options, variables, settings of burnish.toml."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import typer.main

from burnish._settings import Settings
from burnish.cli.run import run_app
from burnish_services.__main__ import build_parser
from burnish_services.runtime.config import ServerSettings
from tests.deploy.support import EVERYTHING, HAS_NODES, HAS_OBJECTS, LEAST, OBJECTS, SERVICES, of_kind, pods
from tools.chart.known import SERVICES as SETTINGS
from tools.chart.known import client_settings, recipe_options, server_options, service_settings
from tools.chart.rendering import PROFILES, laid, profile, render

CASES = {**{name: profile(name) for name in PROFILES}, "least": LEAST, "everything": EVERYTHING}
if HAS_OBJECTS:
    CASES["objects"] = OBJECTS
# Of training on several machines, whose part of the services may not be there yet.
OF_NODES = {"BURNISH_TRAINING_NODES", "BURNISH_TRAINING_RENDEZVOUS"}


def known_variables() -> set[str]:
    """Of Burnish's own."""
    classes = {"BURNISH_SERVER_": ServerSettings, **{f"BURNISH_{s.upper()}_": SETTINGS[s] for s in SERVICES}}
    found = {prefix + name.upper() for prefix, kind in classes.items() for name in kind.model_fields}
    return found | {"BURNISH_CONFIG"} | (set() if HAS_NODES else OF_NODES)


@pytest.mark.parametrize("case", CASES)
def test_programs_know_what_they_are_told(case: str) -> None:
    manifests = render(CASES[case])
    for pod in pods(manifests):
        names = [entry["name"] for entry in pod.container.get("env", [])]
        assert len(set(names)) == len(names), "a variable that is given twice"
        assert {name for name in names if name.startswith("BURNISH_")} <= known_variables()
        arguments = pod.container.get("args", [])
        assert all(isinstance(argument, str) for argument in arguments)
        if pod.component in SERVICES:
            given = build_parser().parse_args(arguments)
            assert given.roles == pod.component
        elif pod.component == "coordinator":
            assert arguments[0] == "run"
            command: Any = typer.main.get_command(run_app)
            command.commands[arguments[1]].make_context(arguments[1], list(arguments[2:]))
    for settings in of_kind(manifests, "ConfigMap"):
        if "burnish.toml" in settings["data"]:
            given = tomllib.loads(settings["data"]["burnish.toml"])
            assert set(given) <= set(Settings.model_fields)
            Settings.model_validate(given)


def test_what_no_program_knows_is_seen() -> None:
    """Else the test above could pass whatever the chart said."""
    values = laid(
        {"scoring": {"extraArgs": ["--turbo"], "extraEnv": [{"name": "BURNISH_SCORING_TURBO", "value": "1"}]}}, LEAST
    )
    (scoring,) = [pod for pod in pods(render(values)) if pod.component == "scoring"]
    with pytest.raises(SystemExit):
        build_parser().parse_args(scoring.container["args"])
    assert "BURNISH_SCORING_TURBO" not in known_variables()


@pytest.mark.skipif(not HAS_NODES, reason="these services train on one machine only")
def test_followers_know_what_they_are_told() -> None:
    from burnish_services.training import follower

    (pod,) = [pod for pod in pods(render(profile("cluster"))) if pod.component == "follower"]
    follower.build_parser().parse_args(pod.container["args"])
    assert "nodes" in SETTINGS["training"].model_fields
    assert "rendezvous" in SETTINGS["training"].model_fields


def test_every_option_and_setting_can_be_given() -> None:
    """One by one, as a value that the schema takes."""
    options = {name: example(schema) for name, schema in server_options().items()}
    values: dict[str, Any] = {"server": {"options": options}}
    for service in SERVICES:
        values[service] = {"settings": {name: example(schema) for name, schema in service_settings(service).items()}}
    for pod in pods(render(laid(values, LEAST))):
        if pod.component in SERVICES:
            given = vars(build_parser().parse_args(pod.container["args"]))
            assert {name.replace("_", "-") for name in given} >= set(options)
            variables = {e["name"]: e["value"] for e in pod.container["env"] if e["name"].startswith("BURNISH_")}
            prefix = f"BURNISH_{pod.component.upper()}_"
            names = {name.removeprefix(prefix).lower(): value for name, value in variables.items()}
            SETTINGS[pod.component].model_validate(names)
            assert set(names) == set(service_settings(pod.component))
    assert set(client_settings()) > {"connect_timeout", "scoring_endpoint"}
    assert all("epochs" in options for options in recipe_options().values())


def example(schema: dict[str, Any]) -> Any:
    """A value that a schema takes."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "string":
        return "file"
    if schema["type"] == "boolean":
        return True
    return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
