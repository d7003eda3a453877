"""burnish split: three files out of one, none of whose prompts are in two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import burnish


def data(folder: Path, count: int = 40) -> Path:
    """Every prompt stands in two rows, and one column is none of ours."""
    rows = [{"instruction": f"Say {n // 2}", "output": f"{n}", "source": {"page": n}} for n in range(count)]
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_in_one_file_and_every_prompt_in_one(tmp_path: Path) -> None:
    source = data(tmp_path)
    result = burnish("split", "--data", source, "--holdout", "25%", "--check", "6", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    files = {Path(name).name: count for name, count in json.loads(result.stdout).items()}
    assert files == {"held-out.jsonl": 10, "to-check.jsonl": 6, "rest.jsonl": 24}
    parts = {name: read(tmp_path / "out" / name) for name in files}
    rows = [row for part in parts.values() for row in part]
    assert sorted(rows, key=lambda row: int(row["output"])) == json.loads(source.read_text())
    prompts = [{row["instruction"] for row in part} for part in parts.values()]
    assert sum(len(one) for one in prompts) == len(set.union(*prompts))


def test_the_same_command_draws_the_same_and_another_seed_others(tmp_path: Path) -> None:
    source = data(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / name
        assert (
            burnish("split", "--data", source, "--holdout", 6, "--check", 0, "--seed", seed, "--out", out).exit_code
            == 0
        )
        assert not (out / "to-check.jsonl").exists()
    drawn = [(tmp_path / name / "held-out.jsonl").read_bytes() for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_somebody_may_have_worked_on_is_not_written_over(tmp_path: Path) -> None:
    source, out = data(tmp_path), tmp_path / "out"
    command = ("split", "--data", source, "--holdout", 4, "--check", 4, "--out", out)
    assert burnish(*command).exit_code == 0
    (out / "to-check.jsonl").write_text("looked through")
    (out / "held-out.jsonl").unlink()
    result = burnish(*command)
    assert result.exit_code == 2
    assert "to-check.jsonl is there already" in " ".join(result.stderr.split())
    assert not (out / "held-out.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--holdout", "30", "--check", "10"), "are all of the 40 rows"),
        (("--holdout", "-1"), "--holdout: expected a share below 100%"),
        (("--holdout", "100%"), "whole number of rows such as 500; found '100%'"),
        (("--check", "1.5"), "--check: expected a share"),
        (("--check", "many"), "--check: expected a share"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    result = burnish("split", "--data", data(tmp_path), *given, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_shares_are_of_all_rows_and_a_prompt_of_many_is_told(tmp_path: Path) -> None:
    rows = [{"instruction": "Say it" if n < 30 else f"Say {n}", "output": f"{n}"} for n in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ("split", "--data", tmp_path / "data.jsonl", "--holdout", "0.2", "--check", 8, "--out", tmp_path / "out")
    result = burnish(*command)
    assert result.exit_code == 0
    assert "30 rows for to-check.jsonl instead of 8" in " ".join(result.stderr.split())
    assert [len(read(tmp_path / "out" / name)) for name in ("held-out.jsonl", "rest.jsonl")] == [8, 2]
