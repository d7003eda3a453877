"""The command as tests call it, within this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from burnish.cli.app import app


def burnish(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def complained(result: Result, code: int, *phrases: str) -> None:
    said = " ".join(result.stderr.split())
    assert result.exit_code == code, said
    for phrase in phrases:
        assert phrase in said
