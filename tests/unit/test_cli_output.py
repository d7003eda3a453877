"""What the command prints: texts of data and of models as they are, but for what would steer the terminal."""

from __future__ import annotations

import pytest

from burnish.cli.output import complain, say


def test_a_terminal_obeys_nothing_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say("clip \x1b]52;c;aGk=\x1b\\ and \x9b2J, Zürich 東京\tkept\nnext")
    complain("row \x1b[2J is bad\nsecond")
    out, err = capsys.readouterr()
    assert out == "clip \\x1b]52;c;aGk=\\x1b\\ and \\x9b2J, Zürich 東京\tkept\nnext\n".replace(
        "\t", out[out.index("京") + 1 : out.index("kept")]
    )
    assert "\x1b" not in out.replace("\\x1b", "")
    assert "row \\x1b[2J is bad\nsecond" in err
