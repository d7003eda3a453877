"""The audit of what Burnish installs: that it finds nothing now, and that it would find what it is for."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tools import audit


@pytest.mark.skipif(
    sys.platform == "linux" and "+cpu" not in metadata.version("torch"),
    reason="this torch came from an index without CPU wheels, with CUDA's libraries, which no lock pins",
)
def test_the_pins_and_their_licences_are_in_order() -> None:
    assert audit.offline() == []


def test_lines_that_are_no_pins_and_pins_that_stand_twice(tmp_path: Path) -> None:
    lock = tmp_path / "x.txt"
    lock.write_text("# words\nGood_One==1.0\nloose>=1\n\ngood-one==2\n")
    pins, wrong = audit.read_pins(lock)
    assert pins == {"good-one": "1.0"}
    assert len(wrong) == 2
    assert "line 3" in wrong[0]
    assert "twice" in wrong[1]


def test_pins_that_contradict_each_other_or_are_not_installed() -> None:
    assert list(audit.contradictions({"a": {"x": "1", "y": "1"}, "b": {"x": "2", "y": "1"}})) == [
        "x is pinned to 1 in a, 2 in b"
    ]
    missing, other = audit.not_installed({"no-such-package": "1", "packaging": "0.1"})
    assert "not installed" in missing
    assert "pinned to 0.1" in other


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_licences(expression: str, allowed: bool) -> None:
    assert audit.is_allowed(expression) is allowed


def test_a_licence_that_is_not_allowed_and_an_exception_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "license_of", lambda name: "GPL-3.0-only" if name == "a" else "MIT")
    found = list(audit.licences(["a", "b", "setuptools"]))
    assert len(found) == 2
    assert found[0].startswith("a has the licence 'GPL-3.0-only'")
    assert found[1] == "setuptools needs no exception: its licence is MIT"


def _report(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_what_a_report_of_vulnerabilities_comes_to() -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["2"], "aliases": [], "description": ""}
    good, bad = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "1", "vulns": [flaw]}
    skipped = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited"}
    assert audit.judged(_report(good, skipped), "") == ("1 of 2 pins checked, 0 known vulnerabilities", True)
    said, is_good = audit.judged(_report(good, bad, bad), "")
    assert not is_good
    assert said.endswith("\nb==1: PYSEC-1, mended in 2")
    for report in (_report(skipped), "", "no JSON"):
        said, is_good = audit.judged(report, "Traceback\nConnectionError: no way")
        assert is_good
        assert "NOT checked" in said
