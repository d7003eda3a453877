"""Writes docs/cli.md from the command itself: every command, every option, in its own words.

`make docs` runs it; a test fails where docs/cli.md is stale.
"""

from __future__ import annotations

import sys
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

Exit codes: 0 done; 1 the work failed; 2 wrong usage or bad input; 3 a service could not be reached or started;
130 interrupted and resumable. Errors go to standard error.
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for path, command in commands(typer.main.get_command(app), "burnish"):
        parts.append(f"\n## {path}\n\n{_text(command.help)}\n")
        groups: dict[str, list[str]] = {}
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
            groups.setdefault(panel, []).append(_row(parameter))
        for panel, rows in groups.items():
            parts.append(f"\n{panel}:\n\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


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
    required = " Required." if parameter.required else ""
    default = parameter.default
    shown = "" if default in (None, False, []) or parameter.required or callable(default) else f" Default: {default}."
    return f"| `{names}` | {_text(parameter.help)}{required}{shown} |"


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
