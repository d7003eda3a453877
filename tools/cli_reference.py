"""Writes docs/cli.md from the command itself: every command, every option, in its own words.

`make docs` runs it; a test fails where docs/cli.md is stale.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from burnish.cli.app import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
_HEAD = """\
# The command

Made from `burnish --help` by `make docs`; do not edit.

Settings of services can also be given in the environment (`BURNISH_SCORING_ENDPOINT`, `BURNISH_ENGINE`, …) or in
`burnish.toml` (`scoring_endpoint = "…"`): flags win over the environment, the environment over the file.
[settings.md](settings.md) has them all.

Exit codes: 0 done; 1 the work failed; 2 wrong usage or bad input; 3 a service could not be reached or started,
or object storage did not give the data; 130 interrupted and resumable. Errors go to standard error.
"""


def reference() -> str:
    """The whole page. A group of options that many commands have stands once, at the end; one that few have, at the
    first of them that runs a recipe, or is the first at all."""
    found = {path: (command, _panels(command)) for path, command in commands(typer.main.get_command(app), "burnish")}
    places = _places({path: panels for path, (_, panels) in found.items()})
    parts = [_HEAD]
    for path, (command, panels) in found.items():
        parts.append(f"\n## {path}\n\n{_text(command.help)}\n")
        parts += [f"\n{panel.name}:\n{panel.table}" for panel in panels if panel.is_own or places[panel] == path]
        there: dict[str, list[str]] = {}
        for panel in panels:
            if not panel.is_own and places[panel] != path:
                there.setdefault(places[panel], []).append(panel.name)
        if (run := path.replace(" sweep ", " run ")) != path:
            parts.append(f"\nAnd what else [{run}](#{_anchor(run)}) has.\n")
        elif there:
            told = [f"[{', '.join(names)}](#{_anchor(place)})" for place, names in there.items()]
            parts.append(f"\nAnd: {', '.join(told)}.\n")
    parts.append("\n## Options of many commands\n")
    shared = {panel: place for panel, place in places.items() if place not in found}
    parts += [f"\n### {place}\n{panel.table}" for panel, place in shared.items()]
    return "".join(parts)


def _places(found: Mapping[str, Sequence[Panel]]) -> dict[Panel, str]:
    """By group, the heading that it stands under: a command, or one of its own where more than two have it."""
    owners: dict[Panel, list[str]] = {}
    for path, panels in found.items():
        if " sweep " not in path:  # a sweep has all that its recipe's run has
            for panel in panels:
                owners.setdefault(panel, []).append(path)
    shared = Counter(panel.name for panel, paths in owners.items() if len(paths) > 2 and not panel.is_own)
    places = {}
    for panel, paths in owners.items():
        if len(paths) < 3 or panel.is_own:
            places[panel] = next((path for path in paths if " run " in path), paths[0])
        elif shared[panel.name] == 1:
            places[panel] = panel.name
        else:
            places[panel] = f"{panel.name} ({', '.join(path.removeprefix('burnish ') for path in paths)})"
    return places


@dataclass(frozen=True)
class Panel:
    """A group of options in a command's help."""

    name: str
    rows: tuple[str, ...]

    @property
    def is_own(self) -> bool:
        """Whether it is what a command has by itself, so that it stands there."""
        return self.name == "Options"

    @property
    def table(self) -> str:
        """As Markdown."""
        return "\n| option | meaning |\n|---|---|\n" + "\n".join(self.rows) + "\n"


def _panels(command: Any) -> list[Panel]:
    groups: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        name = getattr(parameter, "rich_help_panel", None) or "Options"
        groups.setdefault(name, []).append(_row(parameter))
    return [Panel(name, tuple(rows)) for name, rows in groups.items()]


def _anchor(heading: str) -> str:
    """Where a heading is linked to, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def commands(command: Any, path: str) -> list[tuple[str, Any]]:
    """Every command that does something, with its full name, in the order of the help."""
    children = getattr(command, "commands", None)
    if not children:
        return [(path, command)]
    return [found for name, child in children.items() for found in commands(child, f"{path} {name}")]


def _row(parameter: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = str(parameter.metavar or parameter.name)
    choices = ", ".join(f"`{choice}`" for choice in choices_of(parameter))
    one_of = f" One of {choices}." if choices else ""
    required = " Required." if parameter.required else ""
    default = parameter.default
    shown = (
        ""
        if default is None or default is False or default in ("", []) or parameter.required or callable(default)
        else f" Default: {default}."
    )
    return f"| `{names}` | {_text(parameter.help)}{one_of}{required}{shown} |"


def choices_of(parameter: Any) -> tuple[Any, ...]:
    """The values that an option takes, where these are few and named; else none."""
    return tuple(parameter.type_descriptor.choices or ())


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
