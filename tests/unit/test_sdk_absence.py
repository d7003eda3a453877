"""What is said of a service that is away: one line once it is away for long, one when it is back."""

from __future__ import annotations

import time

import pytest

from burnish._absence import Absence


def test_one_line_when_it_is_away_for_long_and_one_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    absence = Absence("scoring")
    absence.over("here:1")
    absence.missed("here:1", "Connection refused (111)", 120.0)
    now = 2.5
    absence.over("here:1")
    absence.missed("here:1", "Connection refused (111)", 120.0)
    now = 5.0
    absence.missed("here:1", "Connection refused (111)", 120.0)
    assert not caplog.messages, "replicas are replaced in less"
    for _ in range(3):
        now += 1.0
        absence.missed("here:1", "Connection refused (111)", 120.0)
    now = 12.5
    absence.over("here:1")
    absence.over("here:1")
    assert caplog.messages == [
        "the scoring service at here:1 does not answer (Connection refused (111)); waiting up to 120 s for it,"
        " nothing is lost meanwhile",
        "the scoring service at here:1 answers again, after 10 s",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
