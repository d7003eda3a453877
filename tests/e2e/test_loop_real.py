"""The whole loop on the real engine, through the command: vLLM on the CPU, real training, a kill in its midst."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.paths import RunPaths
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.base import EngineSettings
from burnish_services.engine.factory import create_engine
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.scoring.core import Wanted, score_conversations
from burnish_services.scoring.losses import SampleLoss
from tests.e2e.support import history
from tests.golden.cases import MODEL
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = {"middo": 12, "clear": 6}
HOLDOUT = 4
MORE = {
    "middo": (
        *("--rewrite-max-tokens", "48", "--attempts", "2", "--items-per-batch", "4", "--batches-in-flight", "1"),
    ),
    "clear": (
        *("--answers", "2", "--answer-max-tokens", "24", "--propose-max-tokens", "48"),
        *("--eta", "0.3", "--no-swap", "--min-mass", "0"),
    ),
}
BUNDLED = Path(burnish.__file__).parent / "data"
# Tables that a killed run must find again as they were: content that was paid for.
PAID_FOR = ("score", "embedding", "rating")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("real")
    options = EngineOptions(dtype="float32", max_model_len=768)
    with LocalServices(engine="vllm", model=MODEL.resolve(), state_dir=folder, options=options) as services:
        yield services.endpoints.scoring


def head(name: str, count: int, folder: Path) -> Path:
    lines = (BUNDLED / name).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    path = folder / name
    path.write_text("".join(lines), encoding="utf-8")
    return path


def start(address: str, folder: Path, recipe: str = "middo") -> subprocess.Popen[str]:
    """One round, with everything about it small."""
    command = [
        *(sys.executable, "-m", "burnish", "run", recipe, "--endpoint", address, "--out", folder / "out", "--json"),
        *("--data", head("demo.jsonl", ROWS[recipe], folder), "--holdout", head("demo_holdout.jsonl", HOLDOUT, folder)),
        *("--model", MODEL.resolve(), "--seed", "3", "--learning-rate", "5e-5", "--batch-size", "2"),
        *("--accumulation", "2", *MORE[recipe]),
    ]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def paid_for(out: Path) -> dict[str, set[tuple[Any, ...]]]:
    with Ledger.open(RunPaths(out).ledger, read_only=True) as ledger:
        return {table: {tuple(map(str, row)) for row in ledger.select(f"SELECT * FROM {table}")} for table in PAID_FOR}


async def reference_losses(model: Path, conversations: list[list[ChatMessage]]) -> list[float]:
    """Mean losses by the transformers engine, in float32."""
    engine = create_engine("transformers", EngineSettings(str(model), dtype="float32", max_model_len=768))
    await engine.start()
    try:
        results = await score_conversations(engine, conversations, Wanted(), CallRecord("ScoreSamples"))
    finally:
        await engine.close()
    assert all(isinstance(result, SampleLoss) for result in results)
    return [result.mean_nll for result in results if isinstance(result, SampleLoss)]


async def test_a_round_that_is_killed_and_goes_on(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(address, tmp_path)
    await until_step(process, out, "judge", done=4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = paid_for(out)
    assert len(before["score"]) == 2 * ROWS["middo"] + 2 * HOLDOUT
    assert 6 * 4 <= len(before["rating"]) < 6 * ROWS["middo"]

    process = start(address, tmp_path)
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    after = paid_for(out)
    for table in PAID_FOR:
        assert before[table] <= after[table], f"{table}: what was recorded was redone or altered"

    told = json.loads(said)
    assert told["rows_in"] == ROWS["middo"]
    rows = [json.loads(line) for line in (out / "final/data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == told["rows_out"]
    assert Path(told["report"]) == out / "report.html"
    assert (out / "report.html").is_file()
    with history(out) as h:
        assert {step.name for step in h.steps()} >= {"train", "score_pre", "score_post", "embed", "judge", "refine"}
        rewrites = h.rewrites(1)
        accepted = [rewrite for rewrite in rewrites if rewrite.after is not None]
        assert rewrites
        assert all(rewrite.reason for rewrite in rewrites if rewrite.after is None), "a rejection says why"
        changed = {json.dumps(row, sort_keys=True) for row in rows} - {
            json.dumps(json.loads(line), sort_keys=True) for line in (tmp_path / "demo.jsonl").read_text().splitlines()
        }
        assert len(changed) == len({(rewrite.row_id, rewrite.strategy) for rewrite in accepted})

        base, first, last = h.models()
        assert base.eval_loss is not None
        assert last.eval_loss is not None
        assert last.eval_loss < base.eval_loss, "training taught it nothing"
        # What vLLM said of the weights that training published, against transformers on the same files.
        decisions = h.decisions(1)
        conversations = [
            [ChatMessage(str(message.role), message.content) for message in messages]
            for _, messages in h.conversations(1)
        ]
    expected = await reference_losses(Path(first.uri), conversations)
    found = [decision.signals["loss_post"] for decision in decisions]
    assert found == pytest.approx(expected, abs=1e-5)
    base_losses = [decision.signals["loss_pre"] for decision in decisions]
    assert found != pytest.approx(base_losses, abs=0.05)


async def test_a_round_of_clear_on_the_real_engine(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(address, tmp_path, "clear")
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "self-reflection says little" in (out / "report.html").read_text(encoding="utf-8")
    told = json.loads(said)
    rows = [json.loads(line) for line in (out / "final/data.jsonl").read_text(encoding="utf-8").splitlines()]
    gone = [json.loads(line) for line in (out / "final/dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (told["rows_in"], told["rows_out"]) == (ROWS["clear"], len(rows)) == (len(rows) + len(gone), len(rows))
    with history(out) as h:
        base, tuned, last = h.models()
        assert base.eval_loss is not None
        assert last.eval_loss is not None
        assert last.eval_loss < base.eval_loss, "training taught it nothing"
        decisions = h.decisions(1)
        conversations = [
            [ChatMessage(str(message.role), message.content) for message in messages]
            for _, messages in h.conversations(1)
        ]
        (proposed,) = [step for step in h.steps() if step.name == "propose"]
        candidates = h.candidates(1)
    assert proposed.detail["model"]["digest"] == tuned.digest  # type: ignore[index]
    assert {one.row_id for one in candidates} == {d.row_id for d in decisions if d.axes}
    assert all(one.text or one.rejection == "empty" for one in candidates)
    expected = await reference_losses(MODEL.resolve(), conversations)
    found = [-math.log(decision.signals["likelihood"]) for decision in decisions]
    assert found == pytest.approx(expected, abs=1e-5)


async def until_step(process: subprocess.Popen[str], out: Path, name: str, *, done: int) -> None:
    """Waits until the run has done so many items of a step."""

    def reached() -> bool:
        assert process.poll() is None, process.communicate()
        status = out / "status.json"
        step = json.loads(status.read_text())["step"] if status.exists() else None
        return step is not None and step["name"] == name and step["done"] >= done

    await until(reached, seconds=400)


def test_a_core_set_by_the_real_models_neurons(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "burnish", "run", "mads", "--endpoint", address, "--out", out, "--select-only"),
        *("--data", head("demo.jsonl", 60, tmp_path), "--model", MODEL.resolve(), "--budget", "20%"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with history(out) as h:
        detail: dict[str, Any] = dict(next(step.detail for step in h.steps() if step.name == "select"))
        decided = h.decisions(1)
        places = h.places(1)
    distinct = len({one.sample_hash for one in decided})
    assert sum(one.actions[0] == "keep" for one in decided) == round(0.2 * distinct)
    assert {one.actions[0] for one in decided} == {"keep", "drop"}
    assert len(places) == distinct
    assert detail["curve"]["value"][-1] > max(one["value"][-1] for one in detail["random_curves"])
    assert detail["curve"]["num_features"][-1] > max(one["num_features"][-1] for one in detail["random_curves"])
    assert detail["num_features"] > 10_000, "of 46,080 neurons many stand out somewhere, not the same few everywhere"
    assert detail["hub_share"] < 0.1
