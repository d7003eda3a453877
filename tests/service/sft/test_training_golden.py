"""Loss curves against those of a loop as plain as the formulas (tests/golden/training.py)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

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
    alone = found.pop("alone")["losses"]
    assert len(alone) == 10
    assert all(map(math.isfinite, alone))
    assert {name.split(", ")[0] for name in found} == golden.keys()
    for name, did in found.items():
        expected = golden[name.split(", ")[0]]
        assert len(did["losses"]) == len(expected) == 10
        assert did["losses"] == pytest.approx(expected, abs=TOLERANCE), name
        follows_its_plan(name, did)
    for rounded in ("mixed", "bfloat16"):
        assert found[f"plain, {rounded}"]["losses"] != found["plain"]["losses"], "it rounds nothing"
    # The curves are told apart by more than that, or agreeing with them would prove nothing.
    for one, other in combinations(golden, 2):
        apart = max(abs(a - b) for a, b in zip(golden[one], golden[other], strict=True))
        assert apart > 5 * TOLERANCE, (one, other)


def follows_its_plan(name: str, did: dict[str, Any]) -> None:
    """What a curve alone does not show, as these change it by rounding: of all models that a course trains."""
    packed, checkpointed, rounded = (name.endswith(f", {what}") for what in ("packed", "checkpointed", "bfloat16"))
    assert len(did["formats"]) == len(did["checkpointed"]) == (2 if name.startswith("auxiliary") else 1), name
    assert set(did["checkpointed"]) == {checkpointed}, name
    assert all(formats == ["torch.bfloat16" if rounded else "torch.float32"] for formats in did["formats"]), name
    if not name.startswith("refined"):  # which makes no rows of samples whose responses are the model's own
        assert did["rows"] == (1 if packed else 3), name
