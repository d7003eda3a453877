"""The bundled demo data set is what its README and its truth file say it is."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "client" / "burnish" / "data"
GENERATOR = ROOT / "tools" / "make_demo_data.py"
FLAWS = {"wrong_answer", "vague_prompt", "hard_prompt", "thin_topic", "duplicate"}

Row = dict[str, Any]
Content = tuple[str, str, str]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


DEMO = read("demo.jsonl")
TRUTH = read("demo_truth.jsonl")
HOLDOUT = read("demo_holdout.jsonl")
BY_ID = {row["id"]: row for row in DEMO}
FLAWED = {row["id"]: row for row in TRUTH}


def content(row: Row) -> Content:
    return row["instruction"], row["input"], row["output"]


def words(row: Row) -> int:
    return len(" ".join(content(row)).split())


@pytest.mark.parametrize(("rows", "prefix"), [(DEMO, "demo"), (HOLDOUT, "holdout")], ids=["demo", "holdout"])
def test_every_row_is_a_valid_alpaca_row(rows: list[Row], prefix: str) -> None:
    for number, row in enumerate(rows, start=1):
        assert list(row) == ["id", "instruction", "input", "output"], row
        assert all(isinstance(value, str) and value == value.strip() for value in row.values()), row
        assert row["instruction"], row
        assert row["output"], row
        assert row["id"] == f"{prefix}-{number:04d}"


def test_files_are_one_json_object_per_line() -> None:
    for name in ("demo.jsonl", "demo_truth.jsonl", "demo_holdout.jsonl"):
        raw = (DATA / name).read_bytes()
        assert raw.endswith(b"\n"), name
        assert b"\r" not in raw, name
        assert b"\n\n" not in raw, name


def test_rows_are_short_and_the_set_trains_in_a_minute() -> None:
    assert max(words(row) * 1.35 for row in DEMO) <= 130
    assert sum(words(row) * 1.35 for row in DEMO) < 19_000


def test_truth_names_existing_rows_once() -> None:
    assert len(FLAWED) == len(TRUTH)
    assert FLAWED.keys() <= BY_ID.keys()
    for row in TRUTH:
        assert row["flaw"] in FLAWS, row
        extra = {"wrong_answer": {"correct"}, "duplicate": {"of"}}.get(row["flaw"], set())
        assert row.keys() == {"id", "flaw", "note"} | extra, row
        assert row["note"].strip(), row
        assert "\n" not in row["note"], row


def test_wrong_answers_differ_from_their_corrections() -> None:
    for row in TRUTH:
        if row["flaw"] == "wrong_answer":
            assert row["correct"].strip()
            assert row["correct"] != BY_ID[row["id"]]["output"]


def test_duplicates_are_exact_copies_of_sound_rows_further_up() -> None:
    for row in TRUTH:
        if row["flaw"] == "duplicate":
            assert content(BY_ID[row["id"]]) == content(BY_ID[row["of"]])
            assert row["of"] not in FLAWED
            assert row["of"] < row["id"]


def test_nothing_else_is_repeated() -> None:
    rest = [row for row in DEMO if FLAWED.get(row["id"], {}).get("flaw") != "duplicate"]
    assert len({content(row) for row in rest}) == len(rest)
    prompts = Counter((row["instruction"].casefold(), row["input"].casefold()) for row in rest)
    assert [prompt for prompt, count in prompts.items() if count > 1] == []


def test_holdout_is_disjoint_from_the_demo_rows() -> None:
    assert len({content(row) for row in HOLDOUT}) == len(HOLDOUT)
    prompts = {(row["instruction"].casefold(), row["input"].casefold()) for row in DEMO}
    answers = {row["output"] for row in DEMO} | {row.get("correct") for row in TRUTH}
    for row in HOLDOUT:
        assert (row["instruction"].casefold(), row["input"].casefold()) not in prompts, row
        assert row["output"] not in answers, row


def test_ids_and_rows_do_not_give_the_flaws_away() -> None:
    text = (DATA / "demo.jsonl").read_text(encoding="utf-8")
    for flaw in FLAWS:
        assert f'"{flaw}"' not in text
    thirds = Counter((int(row["id"].removeprefix("demo-")) - 1) * 3 // len(DEMO) for row in TRUTH)
    assert min(thirds[third] for third in range(3)) >= 10, "the flawed rows are bunched together"


def test_readme_counts_are_the_counts() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    counts = {name: int(count) for name, count in re.findall(r"^\| `([\w.]+)` \| (\d+) \|", readme, re.MULTILINE)}
    assert counts == {
        "demo.jsonl": len(DEMO),
        "demo_truth.jsonl": len(TRUTH),
        "demo_holdout.jsonl": len(HOLDOUT),
        **Counter(row["flaw"] for row in TRUTH),
    }
    topics = re.findall(r"^\| [\w ]+ \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    sound, wrong, duplicates, held_out = (sum(int(row[column]) for row in topics) for column in range(4))
    assert sound == len(DEMO) - len(TRUTH)
    assert (wrong, duplicates, held_out) == (counts["wrong_answer"], counts["duplicate"], len(HOLDOUT))


def test_equations_in_sound_rows_hold() -> None:
    term = r"\(?[\d.,]+\)?"
    equation = re.compile(rf"(?<![\w^]){term}(?: [×÷+−] {term})+ = [\d.,]*\d")
    sound = [row for row in DEMO if row["id"] not in FLAWED] + HOLDOUT
    found = [match.group() for row in sound for match in equation.finditer(row["output"])]
    assert len(found) > 30
    for text in found:
        left, right = text.replace(",", "").split(" = ")
        for sign, operator in (("×", "*"), ("÷", "/"), ("−", "-")):
            left = left.replace(sign, operator)
        assert set(left) <= set("0123456789.+-*/() "), text
        assert eval(left) == pytest.approx(float(right)), text  # noqa: S307 - digits and operators only


@pytest.mark.skipif(not GENERATOR.is_file(), reason="the generator is in the repository, not in the sdist")
def test_the_files_are_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_demo_data", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    for name, rows in generator.build().items():
        assert generator.render(rows) == (DATA / name).read_bytes(), f"{name}: run tools/make_demo_data.py"
