"""Every command and option is documented, and the page is made from the command as it is."""

from __future__ import annotations

import typer.main

from burnish.cli.app import app
from tools.cli_reference import TARGET, choices_of, commands, reference

RUNS = [
    "run auto",
    "run middo",
    "run clear",
    "run mads",
    "run bds",
    "run bmo",
    "run filter",
    "sweep auto",
    "sweep bds",
    "sweep bmo",
    "sweep clear",
    "sweep filter",
    "sweep mads",
    "sweep middo",
    "resume",
    "status",
    "report",
    "explain",
    "export",
    "repair",
    "demo",
]
ALL = [*RUNS, "score", "judge", "confidence", "embed", "select", "rewrite", "respond", "train"]


def test_the_page_is_fresh() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "docs/cli.md is stale; run make docs"


def test_every_command_is_there() -> None:
    names = [path.removeprefix("burnish ") for path, _ in commands(typer.main.get_command(app), "burnish")]
    assert sorted(names) == sorted([*ALL, "split", "up", "doctor", "collections"])


def test_every_command_and_option_says_what_it_does() -> None:
    for path, command in commands(typer.main.get_command(app), "burnish"):
        assert command.help, path
        for parameter in command.params:
            assert parameter.help, f"{path} {parameter.name}"


def test_every_choice_is_on_the_page() -> None:
    rows = [line for line in TARGET.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    found = 0
    for path, command in commands(typer.main.get_command(app), "burnish"):
        for parameter in command.params:
            if choices := choices_of(parameter):
                found += 1
                told = f"One of {', '.join(f'`{choice}`' for choice in choices)}."
                assert any(f"`{parameter.opts[0]}`" in row and told in row for row in rows), f"{path} {parameter.name}"
    assert found > 20
