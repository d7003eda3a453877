"""Loss curves against those of a loop as plain as the formulas (tests/golden/training.py)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

GOLDEN = Path("tests/golden/training.json")
# Where a CPU has AMX, products of float32 matrices round their entries to bfloat16.
TOLERANCE = 0.02


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.light
def test_training_follows_the_golden_curves(tmp_path: Path) -> None:
    """In a process of its own: the trainer makes torch deterministic for good."""
    out = tmp_path / "curves.json"
    subprocess.run([sys.executable, "-m", "tests.golden.training", "trained", str(out)], check=True, timeout=400)
    found, golden = json.loads(out.read_text()), json.loads(GOLDEN.read_text())
    alone = found.pop("alone")
    assert len(alone) == 10
    assert all(map(math.isfinite, alone))
    assert {name.split(", ")[0] for name in found} == golden.keys()
    for name, curve in found.items():
        expected = golden[name.split(", ")[0]]
        assert len(curve) == len(expected) == 10
        assert curve == pytest.approx(expected, abs=TOLERANCE), name
    # The curves are told apart by more than that, or agreeing with them would prove nothing.
    for one, other in combinations(golden, 2):
        apart = max(abs(a - b) for a, b in zip(golden[one], golden[other], strict=True))
        assert apart > 5 * TOLERANCE, (one, other)
