"""Signals and actions of any recipe against what is known to be wrong, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.truth import Known
from burnish.report.against_truth import hold_against, share
from burnish.report.render import render
from tests.unit.test_report import DATA


def decision(
    row_id: str, action: str, signals: Mapping[str, float | None], *, origin: str = "source"
) -> DecisionRecord:
    return DecisionRecord(0, row_id, f"h{row_id}", origin, (), (action,), signals, (), ())


KNOWN = {name: Known(flaw) for name, flaw in zip("abcdef", ["", "", "", "swap", "swap", "cut"], strict=True)}
DECISIONS = [
    decision("a", "keep", {"loss_pre": 1.0, "quality": 9.0}),
    decision("b", "keep", {"loss_pre": 2.0, "quality": 8.0}),
    decision("c", "drop", {"loss_pre": 4.0, "quality": None}),
    decision("d", "drop", {"loss_pre": 3.0, "quality": 8.0}),
    decision("e", "improve", {"loss_pre": 5.0, "quality": 7.0}),
    decision("f", "keep", {"loss_pre": 0.5, "quality": 9.0}),
    decision("g", "drop", {"loss_pre": 9.0}),  # nothing is known of it
    decision("h", "keep", {}, origin="improve"),
]
FOLLOWING = {"a": "ha", "b": "hb", "e": "another", "f": "hf", "h": "hh"}


def test_what_was_done_is_counted_by_kind_of_flaw() -> None:
    found = hold_against(1, DECISIONS, FOLLOWING, KNOWN | {"h": Known("swap")})
    assert found is not None
    told = [(one.flaw, one.left, one.rewritten, one.dropped, one.touched.value) for one in found.outcomes]
    assert told == [("cut", 1, 0, 0, 0.0), ("swap", 0, 1, 1, 1.0), ("", 2, 0, 1, pytest.approx(1 / 3))]
    assert [(one.done, one.precision.part, one.precision.whole, one.recall.part) for one in found.found] == [
        ("dropped", 1, 2, 1),
        ("rewritten", 1, 1, 1),
        ("dropped or rewritten", 2, 3, 2),
    ]
    assert {one.recall.whole for one in found.found} == {3}


def test_signals_are_held_against_it_each_in_its_direction() -> None:
    found = hold_against(1, DECISIONS, FOLLOWING, KNOWN)
    assert found is not None
    loss, quality = found.signals
    assert (loss.signal, loss.higher_is_right, loss.num_wrong, loss.num_right) == ("loss_pre", False, 3, 3)
    # Right 1, 2, 4; wrong 3, 5, 0.5: in order are 1 and 2 before 3 and 5, and 4 before 5, five of nine pairs.
    assert loss.auroc == pytest.approx(5 / 9)
    assert loss.by_flaw == {"swap": pytest.approx(5 / 6), "cut": 0.0}
    # Right 9, 8; wrong 8, 7, 9: above are 9 of 8 and 7, and 8 of 7; tied are 9 and 9, 8 and 8.
    assert (quality.higher_is_right, quality.num_right) == (True, 2)
    assert quality.auroc == pytest.approx(4 / 6)


def test_before_anything_was_done_only_signals_are_told() -> None:
    found = hold_against(1, DECISIONS, None, KNOWN)
    assert found is not None
    assert (found.found, found.outcomes) == ([], [])
    assert found.signals
    assert hold_against(1, DECISIONS, FOLLOWING, {}) is None


def test_rows_that_nobody_judged_are_left_out() -> None:
    rows = [*DECISIONS[:4], decision("e", "validate", {}), decision("f", "unread", {})]
    found = hold_against(1, rows, FOLLOWING, KNOWN)
    assert found is not None
    assert sum(one.touched.whole for one in found.outcomes) == 4


def test_an_order_of_picking_is_a_signal_and_a_learnt_weight_is_its_logit() -> None:
    picked = [decision("a", "keep", {"rank": 1.0, "gain": 3.0}), decision("d", "drop", {"cosine": 0.5})]
    found = hold_against(1, picked, {"a": "ha"}, KNOWN)
    assert found is not None
    assert [(s.signal, s.auroc) for s in found.signals] == [("order of picking", 1.0)]
    learnt = [decision("a", "keep", {"rank": 1.0, "weight": 1.0, "logit": 2.0})]
    learnt.append(decision("d", "drop", {"rank": 2.0, "weight": 1.0, "logit": 1.0}))
    found = hold_against(1, learnt, {"a": "ha"}, KNOWN)
    assert found is not None
    assert [(s.signal, s.auroc) for s in found.signals] == [("logit", 1.0)]


def test_wilsons_interval() -> None:
    # Of 10, 8: Wilson (1927) by the textbook, 0.4902 to 0.9433.
    found = share(8, 10)
    assert (found.value, found.low, found.high) == (
        0.8,
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    assert share(0, 0).value is None
    assert share(0, 5).low == 0.0
    assert share(5, 5).high == 1.0


@given(st.integers(0, 200).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_an_interval_holds_its_share(counts: tuple[int, int]) -> None:
    found = share(*counts)
    if counts[1]:
        assert found.low is not None
        assert found.high is not None
        assert 0.0 <= found.low <= counts[0] / counts[1] + 1e-12
        assert counts[0] / counts[1] - 1e-12 <= found.high <= 1.0


def test_the_page_holds_each_round_against_the_truth() -> None:
    one = hold_against(1, DECISIONS, FOLLOWING, KNOWN)
    assert one is not None
    page = render(replace(DATA, truth=[one]))
    assert "Against what is known to be wrong" in page
    assert "1 of 2, 50% (9% to 91%)" in page, "precision of dropping"
    assert '<td>loss before training</td><td>lower</td><td class="n">0.556</td>' in page
    assert '<td>right</td><td class="n">3</td><td class="n">2</td>' in page
    assert "<h3>Round 1</h3>" not in page
    assert "<h3>Round 2</h3>" in render(replace(DATA, truth=[one, replace(one, number=2)]))
    assert "Against what is known" not in render(DATA)
