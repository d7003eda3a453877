"""What the command prints: texts of data and of models as they are, but for what would steer the terminal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import typer

from burnish.cli.output import command, complain, say


def test_a_terminal_obeys_nothing_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say("clip \x1b]52;c;aGk=\x1b\\ and \x9b2J, Zürich 東京\tkept\nnext")
    complain("row \x1b[2J is bad\nsecond")
    out, err = capsys.readouterr()
    assert out == "clip \\x1b]52;c;aGk=\\x1b\\ and \\x9b2J, Zürich 東京\tkept\nnext\n".replace(
        "\t", out[out.index("京") + 1 : out.index("kept")]
    )
    assert "\x1b" not in out.replace("\\x1b", "")
    assert "row \\x1b[2J is bad\nsecond" in err


def test_what_the_system_refuses_is_one_line_that_names_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def failing(*, json_output: bool) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(Path("/nowhere/out")))

    with pytest.raises(typer.Exit) as ended:
        failing(json_output=False)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "burnish: /nowhere/out: Permission denied.\n"
    with pytest.raises(typer.Exit):
        failing(json_output=True)
    assert capsys.readouterr().err == '{"error": "PermissionError", "message": "/nowhere/out: Permission denied."}\n'
