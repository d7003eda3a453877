"""The command line of the efficacy bench."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.efficacy.arms import ARMS, there
from bench.efficacy.options import arguments


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["efficacy", *words])
    return arguments()


def test_files_are_of_the_tasks_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def data(*words: str) -> dict[str, Path]:
        return given(monkeypatch, *words).data  # type: ignore[attr-defined, no-any-return]

    assert data() == {}
    assert data("--tasks", "maths", "--data", "train.jsonl") == {"maths": Path("train.jsonl")}
    both = data("--tasks", "maths", "procedural", "--data", "maths=a=b.jsonl", "procedural=c")
    assert both == {"maths": Path("a=b.jsonl"), "procedural": Path("c")}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--tasks", "maths", "procedural", "--data", "a.jsonl"], "names a file of several tasks; expected TASK=FILE"),
        (["--tasks", "procedural", "--data", "maths=a.jsonl"], "--data is of maths; expected some of --tasks"),
        (["--tasks", "maths", "--data", "math=a.jsonl"], "math is no task; expected TASK=FILE"),
        (["--arms", "nothing"], "invalid choice"),
        (["--noise", "1"], "at least 0 and below 1"),
        (["--epochs", "2"], "give --steps 0 with it"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_do(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        given(monkeypatch, *words)
    assert complaint in capsys.readouterr().err


def test_arms_may_be_typed_without_an_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = given(monkeypatch, "--arms", "confidence -> coverage -> weights")
    assert asked.arms == ["confidence → coverage → weights"]  # type: ignore[attr-defined]


def test_no_arm_is_left_out_for_settings_that_its_recipe_refuses() -> None:
    assert there(list(ARMS)) == (list(ARMS), [])
