"""The command as tests call it, within this process."""

from __future__ import annotations

import functools
import json
from typing import Any

import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from burnish.cli.app import app

# Else each call of a test makes all commands and their 1,600 options anew.
typer.testing._get_command = functools.cache(typer.main.get_command)  # type: ignore[attr-defined]


def burnish(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def complained(result: Result, code: int, *phrases: str) -> None:
    said = " ".join(result.stderr.split())
    assert result.exit_code == code, said
    for phrase in phrases:
        assert phrase in said
