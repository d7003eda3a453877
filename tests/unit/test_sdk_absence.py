"""What is said of a service that is away: one line once it is away for long, one when it is back."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from burnish._absence import Absence
from burnish._channel import ClientOptions, Deadline, _Retry
from burnish._status import CallStatus


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


def test_every_absence_in_a_long_call_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    link: Any = SimpleNamespace(options=ClientOptions(), patience=lambda _: 120.0)
    retry = _Retry(link, "JudgeSamples", Deadline(None), None)  # type: ignore[arg-type]
    away = CallStatus(grpc.StatusCode.UNAVAILABLE, "gone")
    waited = []
    for _ in range(6):  # each time it works for minutes, and is gone again
        retry.begin()
        now += 300.0
        waited.append(retry._may_retry(away, 1.0))
    assert waited == [True] * 5 + [False]
    fresh = _Retry(link, "JudgeSamples", Deadline(None), None)  # type: ignore[arg-type]
    waited = []
    for _ in range(3):  # nobody answers
        waited.append(fresh._may_retry(away, 1.0))
        now += 100.0
    assert waited == [True, True, False]
