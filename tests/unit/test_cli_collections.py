"""What `burnish collections` makes of an age, and what it says of what is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from burnish._coverage_types import ActivationSettings, Calibration, FeatureRule, FeatureSettings
from burnish._errors import UsageError
from burnish._types import Collection, ModelVersion, TokenSpan
from burnish.cli.collections import age_of, calibration_line, collection_line

VERSION = ModelVersion("/m", "sha256:" + "ab" * 32, "vllm/0.32.0", "bfloat16", "0" * 16)
CREATED = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("4w", timedelta(weeks=4)), ("0h", timedelta())],
)
def test_an_age_is_a_number_of_hours_days_or_weeks(text: str, expected: timedelta) -> None:
    assert age_of(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "1.5d", "30 d", "30m", "999999w", "٣d"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number of hours, days or weeks: 12h, 30d or 4w"):
        age_of(text)


def test_a_collection_is_told_in_a_line() -> None:
    assert collection_line(Collection("prompts", VERSION, 4096, 52_000, CREATED)) == (
        "prompts: 52,000 × 4,096 (812.5 MiB), user, /m (sha256:abababababab, bfloat16, vllm/0.32.0), "
        "created 2026-05-01 12:30 UTC"
    )
    features = FeatureSettings(FeatureRule.STANDARDIZED_TOP_K, "usual")
    rich = Collection("rich", None, 0, 0, None, TokenSpan.ALL, features)
    assert collection_line(rich) == (
        "rich: 0 × 0 (0.0 MiB), all, features standardized_top_k by usual, no weights yet, created at an unknown time"
    )


def test_a_calibration_is_told_in_a_line() -> None:
    finished = Calibration("usual", ActivationSettings(), (), VERSION, 2000, 2, 8, "0123456789abcdef", CREATED)
    assert calibration_line(finished) == (
        "usual: calibration on 2,000 samples, version 0123456789abcdef, /m (sha256:abababababab, bfloat16, "
        "vllm/0.32.0), created 2026-05-01 12:30 UTC"
    )
    fresh = Calibration("new", ActivationSettings(), (), None, 1, 0, 0, "", CREATED)
    assert "on 1 sample, not finished, no weights yet" in calibration_line(fresh)
