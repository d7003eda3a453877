"""One trace from the command to the engine, as a real collector is sent it by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.coordinator.history import RunHistory
from burnish_services.engine.fake import write_fake_model
from tests.collector import Collector, Seen, collecting
from tests.e2e.support import alpaca, write_jsonl

# Of the client alone, and looked for by name: nothing of OpenTelemetry's is imported unless it is asked for.
_UNTRACED = "import sys, burnish, burnish.cli.app; sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def command(collector: Collector | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which starts its services, in one more."""
    environment = {**os.environ, **(collector.environment() if collector is not None else {})}
    return subprocess.run(
        [sys.executable, "-m", "burnish", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_run_is_one_trace_from_the_command_to_the_engine(collector: Collector, tmp_path: Path) -> None:
    model = write_fake_model(tmp_path / "model", name="base", seed=1, skill=0.3)
    rows = alpaca(12)
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    out = tmp_path / "run"
    done = command(
        collector,
        *("run", "middo", "--data", str(data), "--model", str(model), "--out", str(out)),
        *("--rounds", "1", "--engine", "fake"),
    )
    assert done.returncode == 0, done.stderr

    spans = collector.spans
    by_id = {span.id: span for span in spans}
    (root,) = [span for span in spans if not span.parent]
    assert (root.service, root.name) == ("burnish", "burnish run middo")
    assert {span.trace for span in spans} == {root.trace}, "all of it is one trace"

    with RunHistory.open(out) as history:
        run_id = history.run_id
        stages = {(step.round, step.name) for step in history.steps()}
    (run,) = [span for span in spans if span.name == "run middo"]
    assert run.parent == root.id
    assert run.attributes["burnish.run_id"] == run_id
    steps = [span for span in spans if span.name.startswith("step ")]
    assert {(span.attributes["burnish.round"], span.name.removeprefix("step ")) for span in steps} == stages
    assert {span.parent for span in steps} == {run.id}

    below: dict[str, list[Seen]] = defaultdict(list)
    for span in spans:
        below[span.parent].append(span)
        if span.parent:
            assert span.parent in by_id, f"{span.name} hangs in the air"
        if span.name in ("queue", "engine"):
            assert by_id[span.parent].begin <= span.begin <= span.end <= by_id[span.parent].end
    calls = [span for span in spans if span.service == "burnish" and "rpc.method" in span.attributes]
    served = [span for span in spans if span.service == "burnish-services" and "rpc.method" in span.attributes]
    assert {span.name for span in calls} >= {
        *("ScoringService/ScoreSamples", "ScoringService/JudgeSamples", "EmbeddingService/EmbedSamples"),
        *("TrainingService/CreateRun", "TrainingService/WatchRun"),
    }
    for call in calls:
        (server,) = below[call.id]
        assert server in served
        assert server.name == call.name
        assert server.attributes["burnish.request_id"] == call.attributes["burnish.request_id"]
        assert server.attributes["burnish.run_id"] == run_id
        left = {"CANCELLED"} if call.name.endswith("/WatchRun") else set()
        assert server.attributes["rpc.grpc.status"] in {"OK", *left}
        assert not server.failed
    for scoring in [span for span in served if span.attributes["rpc.method"] == "ScoreSamples"]:
        names = [span.name for span in below[scoring.id]]
        assert names.count("queue") == 1
        assert "engine" in names
        assert scoring.attributes["burnish.items"] == scoring.attributes["burnish.failed_items"] + len(rows)
    swapped = [span for span in served if any(name == "model swapped" for name, _ in span.events)]
    assert swapped, "the trained model was loaded in place of the base"
    for row in rows:
        assert not any(text.encode() in raw for raw in collector.raw for text in (row["instruction"], row["output"]))


def test_attempts_and_failures_are_told(collector: Collector, tmp_path: Path) -> None:
    """A command that finds nobody: its call fails, again and again, and then the command does."""
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(2))
    config = tmp_path / "burnish.toml"
    config.write_text("connect_timeout = 1.0\n")
    done = command(
        collector, "score", "--data", str(data), "--model", "m", "--endpoint", "127.0.0.1:9", "--config", str(config)
    )
    assert done.returncode == 3, done.stderr
    (root,) = [span for span in collector.spans if not span.parent]
    assert (root.name, root.failed, root.why) == ("burnish score", True, "Unreachable")
    (call,) = [span for span in collector.spans if span.parent == root.id]
    assert (call.name, call.failed, call.why) == ("ScoringService/GetInfo", True, "Unreachable")
    assert len(call.events) >= 2
    assert set(call.events[0][1]) == {"rpc.grpc.status", "burnish.reason"}


def test_nothing_is_imported_or_sent_unless_it_is_asked_for(collector: Collector, tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _UNTRACED], check=False, timeout=60).returncode == 0
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(2))
    model = write_fake_model(tmp_path / "model")
    disabled = {**collector.environment(), "OTEL_SDK_DISABLED": "true"}
    code = "import sys; from burnish.cli import main\ntry: main()\nexcept SystemExit as end: assert not end.code\n"
    code += "assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "score", "--data", str(data), "--model", str(model), "--engine", "fake"),
            *("--state-dir", str(tmp_path / "state")),
        ],
        env={**os.environ, **disabled},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not collector.spans


def test_a_run_goes_on_without_traces_where_they_cannot_be_had(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(2))
    model = write_fake_model(tmp_path / "model")
    arguments = ("score", "--data", str(data), "--model", str(model), "--engine", "fake", "--state-dir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "burnish", *arguments],
        env={**os.environ, "OTEL_TRACES_EXPORTER": "carrier-pigeon"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no exporter 'carrier-pigeon' is installed" in done.stderr
    assert "carrier-pigeon" in (tmp_path / "scoring.log").read_text()
