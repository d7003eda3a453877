"""Signals and actions held against a known truth, and the page that says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.errors import DataError
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.truth import Known, _from_column, checked, read_truth
from burnish.report.calibration import auroc, calibrate, reliability
from burnish.report.data import ClearRound, Correction, ReportData, ShownRow, StepTiming
from burnish.report.render import render
from tests.unit.test_clear_story import finished_run  # a run in a ledger, made without services


def decision(row_id: str, action: str, confidence: float | None, *, failed: bool = False) -> DecisionRecord:
    signals = {} if confidence is None else {"confidence": confidence, "preference": 0.9}
    axes = ("low_confidence",) if failed else ()
    return DecisionRecord(0, row_id, "h", "source", axes, (action,), signals, ("Because.",), ())


DECISIONS = [
    decision("a", "keep", 0.9),
    decision("b", "keep", 0.8),
    decision("c", "correct", 0.3, failed=True),
    decision("d", "correct", 0.2, failed=True),
    decision("e", "drop", 0.1, failed=True),
    decision("f", "unscored", None),
]
KNOWN = {
    "a": Known("", "yes"),
    "b": Known("wrong", "no"),
    "c": Known("wrong", "Right."),
    "d": Known("", "fine"),
    "e": Known("", "well"),
    "f": Known("wrong", "x"),
}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[float, bool]]) -> None:
    right = [value for value, wrong in pairs if not wrong]
    wrongs = [value for value, wrong in pairs if wrong]
    found = auroc([value for value, _ in pairs], [wrong for _, wrong in pairs])
    if not right or not wrongs:
        assert found is None
        return
    counted = np.mean([(r > w) + 0.5 * (r == w) for r in right for w in wrongs])
    assert found == pytest.approx(counted)


def test_reliability_bins_hold_every_row_once() -> None:
    bins, error = reliability([0.0, 0.05, 0.95, 1.0], [True, False, False, False])
    assert [(b.low, b.count, b.right) for b in bins] == [(0.0, 2, 0.5), (0.9, 2, 1.0)]
    assert bins[0].mean == pytest.approx(0.025)
    assert error == pytest.approx((2 * 0.475 + 2 * 0.025) / 4)
    assert reliability([], []) == ([], None)


def test_actions_are_held_against_the_truth() -> None:
    found = calibrate(DECISIONS, KNOWN, "confidence", {"c": " right", "d": "other"})
    assert found is not None
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(1 / 3)
    assert (found.harmed, found.num_right) == (2, 3), "one dropped, one replaced by something else"
    by_flaw = {one.flaw: one for one in found.by_truth}
    assert by_flaw["wrong"].actions == {"keep": 1, "correct": 1, "unscored": 1}
    assert (by_flaw["wrong"].equal, by_flaw["wrong"].told) == (1, 1)
    assert by_flaw["none"].equal == 0
    assert calibrate(DECISIONS, {}, "confidence", {}) is None


def test_a_rating_has_no_reliability() -> None:
    found = calibrate(DECISIONS, KNOWN, "rating", {})
    assert found is not None
    assert (found.bins, found.calibration_error) == ([], None)


def test_the_page_says_what_was_found() -> None:
    calibration = calibrate(DECISIONS, KNOWN, "confidence", {"c": "right"})
    round_ = ClearRound(
        number=1,
        num_rows=6,
        thresholds=[Threshold("low_confidence", "confidence", 0.5, 0.3, None, 0.3, None, 0, 5, 1)],
        signals={"confidence": [0.9, 0.8, 0.3, 0.2, 0.1]},
        failures=[],
        timings=[StepTiming("confidence", "done", 6, 0, 1.0)],
        actions={"keep": 2, "correct": 2, "drop": 1, "unscored": 1},
        failed=3,
        compared=2,
        flipped=1,
        corrections=[Correction("c", ["P 0.9."], "<b>q</b>", "old words", "new words")],
        dropped=[ShownRow("e", ["P 0.1."], "q", "bad")],
        calibration=calibration,
    )
    page = render(
        ReportData(
            run_id="clear-1",
            recipe="clear",
            version="0.1.0",
            created_at="2026-01-01",
            finished=True,
            rows_in=6,
            rows_out=5,
            rounds=[round_],
            last_timings=[],
            models=[],
            config={},
        )
    )
    assert "Of the rows that failed the filter 33% are wrong; of the wrong ones 33% failed it. 2 of 3" in page
    assert "&lt;b&gt;q&lt;/b&gt;" in page
    assert "<del>old</del>" in page
    assert "<ins>new</ins>" in page
    assert "nan" not in page.lower()
    assert "Reliability" in page


def test_truth_is_a_file_or_a_column(tmp_path: Path) -> None:
    history = finished_run(tmp_path)
    by_column = read_truth(history, "truth")
    assert by_column == {"1": Known("", "four"), "2": Known("wrong", "nine"), "3": Known("", "Six.")}
    path = tmp_path / "known.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in [{"id": 2, "flaw": "swap"}, {"id": 3, "response": "seven"}]))
    assert read_truth(history, str(path)) == {"1": Known(), "2": Known("swap", None), "3": Known("wrong", "seven")}
    with pytest.raises(DataError, match="nowhere: there is no such file, and the data has no such column"):
        read_truth(history, "nowhere")
    path.write_text("[]")
    with pytest.raises(DataError, match=r"line 1: expected a JSON object"):
        read_truth(history, str(path))


def test_an_empty_cell_says_nothing_of_a_row() -> None:
    records = [("1", {"truth": ""}), ("2", {"truth": "four"}), ("3", {})]
    assert _from_column("truth", records) == {"2": "four"}


def test_without_a_flaw_there_is_nothing_to_find_and_harm_is_all_there_is() -> None:
    clean = {row_id: Known("", one.response) for row_id, one in KNOWN.items()}
    found = calibrate(DECISIONS, clean, "confidence", {"c": "right", "d": "other"})
    assert found is not None
    assert (found.precision, found.recall) == (0.0, None)
    assert (found.harmed, found.num_right) == (2, 6)
    assert [one.flaw for one in found.by_truth] == ["none"]


def test_truth_is_checked_before_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"instruction": "q", "output": "a", "truth": "b"}) + "\n")
    settings = ClearSettings(data=str(data), model="m")
    assert checked("truth", settings) == "truth"
    with pytest.raises(DataError, match="thruth: there is no such file, and the data has no such column"):
        checked("thruth", settings)
    later = tmp_path / "later.jsonl"
    values: list[dict[str, object]] = [{}, {"truth": None}, {"truth": 4}, {"truth": ["b"]}]
    for count, expected in ((2, None), (3, None), (4, "a list"), (1, "no such column")):
        later.write_text(
            "".join(json.dumps({"instruction": "q", "output": "a"} | one) + "\n" for one in values[:count])
        )
        if expected is None:
            assert checked("truth", ClearSettings(data=str(later), model="m")) == "truth", "some rows have it"
            continue
        with pytest.raises(DataError, match=expected) as refused:
            checked("truth", ClearSettings(data=str(later), model="m"))
        assert count == 1 or "in row number 4; expected the right response, as text or a number" in str(refused.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "known.jsonl").write_text('{"id": "row-000001", "flaw": "x"}\n')
    assert checked("known.jsonl", settings) == str(tmp_path / "known.jsonl")
    with pytest.raises(DataError, match="line 1"):
        checked(str(data), settings)
