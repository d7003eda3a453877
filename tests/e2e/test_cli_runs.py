"""The commands that train, sweep, and look at runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish import Client
from burnish.cli import inspect_run
from burnish.coordinator.errors import Interrupted
from burnish.coordinator.ledger import locked
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import Observer, StatusFile, StepProgress
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.testing import FakeServices
from tests.e2e.commands import burnish, complained, lines
from tests.e2e.support import ROWS, write_jsonl

WRONG = {f"s{i}" for i in range(0, 40, 4)}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "truth.jsonl", [{"id": name, "flaw": "swapped"} for name in sorted(WRONG)])


def test_train(fakes: FakeServices, client: Client, data: Path, holdout: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = burnish(
        *("train", "--endpoint", fakes.address, "--model", "base", "--data", data, "--out", out, "--request-id", "me"),
        *("--eval-data", holdout, "--eval-steps", "2", "--publish-best", "--seed", "5", "--epochs", "2"),
        *("--lora-rank", "4", "--lora-modules", "q_proj,v_proj"),
    )
    assert done.exit_code == 0, done.stderr
    (request,) = fakes.requests("CreateRun")
    (run,) = client.training.list()
    spec, how = run.snapshot.spec, run.snapshot.spec.hyperparameters
    assert request.request_id == "me"
    assert (how.seed, how.eval_steps, how.publish_best, how.num_epochs) == (5, 2, True, 2.0)
    assert spec.lora is not None
    assert (spec.lora.rank, spec.lora.target_modules) == (4, ("q_proj", "v_proj"))
    assert spec.output_uri == str(out)
    for uri, count in ((spec.data_uri, 43), (spec.eval_data_uri, 5)):
        assert len(Path(uri).read_text(encoding="utf-8").splitlines()) == count
    result = run.snapshot.result
    assert result is not None
    assert done.stdout.splitlines() == [
        f"model         {out}",
        f"digest        {result.model.digest}",
        "loss          1.0000 nats per response token, mean over all steps",
        "samples       10",
    ]


def test_train_that_comes_to_nothing_says_why(fakes: FakeServices, data: Path, tmp_path: Path) -> None:
    arguments = ("--endpoint", fakes.address, "--model", "base", "--data", data, "--request-id", "me")
    done = burnish("train", *arguments, "--out", tmp_path / "failing")  # the fake service goes by the name
    complained(done, 1, "failed at step 3 of 3", "LOSS_NOT_FINITE")
    assert done.stdout == ""
    done = burnish("train", *arguments, "--out", tmp_path / "failing", "--json")
    assert json.loads(done.stderr)["error"] == "RunFailed"


def test_sweep(fakes: FakeServices, data: Path, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = [
        *("sweep", "clear", "--endpoint", fakes.address, "--model", "base", "--data", data, "--out", out),
        *("--vary", "drop-fraction=0.25,0.5", "--filter-only", "--truth", truth, "--items-per-batch", "10"),
    ]
    done = burnish(*arguments)
    assert done.exit_code == 0, done.stderr
    records = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    assert [record["drop-fraction"] for record in records] == ["0.25", "0.5"]
    sent = fakes.requests("EstimateConfidence")
    assert max(len(request.samples) for request in sent) == 10
    assert sum(len(request.samples) for request in sent) == 40, "each sample once"
    assert [record["new_items"] > 0 for record in records] == [True, True]
    for record, share in zip(records, (0.25, 0.5), strict=True):
        folder = out / f"drop-fraction={share}"
        kept = {row["id"] for row in lines((folder / "final/data.jsonl").read_text(encoding="utf-8"))}
        dropped = {row["id"] for row in ROWS} - kept
        assert record["run"] == str(folder)
        assert record["rows_out"] == len(kept)
        assert len(dropped) == pytest.approx(share * 43, abs=3), "copies of a row stay or go together"
        assert record["precision"] == pytest.approx(len(dropped & WRONG) / len(dropped))
        assert record["recall"] == pytest.approx(len(dropped & WRONG) / len(WRONG))
        assert 0 < record["auroc"] < 1
        assert record["held_out_loss"] is None
        assert "swapped" in (folder / "report.html").read_text(encoding="utf-8")
    head, *drawn = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if line.strip("─ ")]
    assert head[:2] == ["drop-fraction", "rows out"]
    assert "run" not in head
    table = [dict(zip(head, cells, strict=True)) for cells in drawn]
    for cells, record in zip(table, records, strict=True):
        assert cells["rows out"] == str(record["rows_out"])
        assert cells["held out loss"] == "–"
        assert cells["auroc"] == f"{record['auroc']:.4g}"
    again = burnish(*arguments, "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, records)
    assert len(fakes.requests("EstimateConfidence")) == len(sent)


def test_what_is_known_since_is_in_the_reports_of_a_finished_sweep(
    fakes: FakeServices, data: Path, truth: Path, tmp_path: Path
) -> None:
    arguments = [
        *("sweep", "clear", "--endpoint", fakes.address, "--model", "base", "--data", data, "--filter-only"),
        *("--out", tmp_path / "sweep", "--vary", "seed=7"),
    ]
    page = tmp_path / "sweep/seed=7/report.html"
    assert burnish(*arguments).exit_code == 0
    assert "swapped" not in page.read_text(encoding="utf-8")
    sent = len(fakes.requests("EstimateConfidence"))
    assert burnish(*arguments, "--truth", truth).exit_code == 0
    assert len(fakes.requests("EstimateConfidence")) == sent, "nothing is done anew"
    assert "swapped" in page.read_text(encoding="utf-8")


def test_a_finished_sweep_is_compared_when_it_is_asked_for(
    fakes: FakeServices, data: Path, holdout: Path, tmp_path: Path
) -> None:
    arguments = [
        *(
            "sweep",
            "clear",
            "--endpoint",
            fakes.address,
            "--model",
            "base",
            "--data",
            data,
            "--out",
            tmp_path / "sweep",
        ),
        *("--holdout", holdout, "--vary", "seed=7"),
    ]
    assert burnish(*arguments).exit_code == 0
    trained = len(fakes.requests("CreateRun"))
    done = burnish(*arguments, "--compare", "--random-subsets", "1")
    assert done.exit_code == 0, done.stderr
    assert len(fakes.requests("CreateRun")) == trained + 2, "on all rows, and on random ones"


def test_a_run_is_watched_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RunPaths(tmp_path)
    file = StatusFile(paths.status)
    moments: Iterator[Callable[[], None]] = iter(
        [
            lambda: file.step_started(StepProgress(1, 2, "judge", 0, 0, 0, 0.0)),
            lambda: None,
            lambda: file.step_finished(StepProgress(1, 2, "judge", 30, 40, 0, 3.0, 10.0)),
            lambda: file.run_ended(None),
        ]
    )
    monkeypatch.setattr(inspect_run, "time", SimpleNamespace(sleep=lambda _seconds: next(moments)()))
    file.run_started("r1", tmp_path, False)
    with locked(paths.ledger):
        now = burnish("status", tmp_path)
        done = burnish("status", tmp_path, "--watch")
    assert (now.exit_code, done.exit_code) == (0, 0)
    running = f"r1: running (process {os.getpid()})"
    assert now.stdout.splitlines() == [running]
    assert done.stdout.splitlines() == [
        running,
        *(running, "round 1 of 2: Self-judging quality, 0 of unknown"),
        *(running, "round 1 of 2: Self-judging quality, 30 of 40, 10.0/s, about 1 s left in this step"),
        "r1: done",
    ]
    assert next(moments, None) is None


def test_a_run_whose_process_is_gone_is_not_watched_for_ever(tmp_path: Path) -> None:
    StatusFile(RunPaths(tmp_path).status).run_started("r1", tmp_path, False)
    done = burnish("status", tmp_path, "--watch")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert first == "r1: interrupted"
    assert "was killed; run the same command again" in second
    done = burnish("status", tmp_path, "--watch", "--json")
    assert json.loads(done.stdout)["state"] == "interrupted"


@pytest.mark.parametrize("command", ["status", "report", "export", "explain", "resume", "repair"])
def test_a_folder_without_a_run_is_named_and_left_as_it_is(command: str, tmp_path: Path) -> None:
    more = {"export": ("--to", tmp_path / "to"), "explain": ("row-000001",), "status": ("--watch",)}.get(command, ())
    complained(burnish(command, tmp_path / "else", *more), 2, "else holds no run; expected the folder")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read_are_told_before_services_start(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    out, given = tmp_path / "out", ("--engine", "transformers", "--model", model)
    for command in (("run", "filter"), ("sweep", "filter", "--vary", "keep=0.5,0.7")):
        complained(burnish(*command, *given, "--data", tmp_path / "none.json", "--out", out), 2, "no such file")
        held_out = ("--data", data, "--holdout", model)
        complained(burnish(*command, *given, *held_out, "--out", out), 2, "No row can be read")
        complained(burnish(*command, *given, "--data", data, "--out", data), 2, "is a file; expected a folder")
    assert not out.exists()


def test_an_export_of_a_run_that_is_not_finished_says_so(data: Path, tmp_path: Path) -> None:
    class Stopping(Observer):
        def step_finished(self, step: StepProgress) -> None:
            raise Interrupted("stopped")

    settings = FilterSettings.parse({"data": str(data), "model": "m", "keep": 0.5})
    with FakeServices() as fakes, Client(fakes.address) as client, pytest.raises(Interrupted):
        run_recipe(settings, client, tmp_path / "out", observer=Stopping())
    done = burnish("export", tmp_path / "out", "--to", tmp_path / "to")
    assert done.exit_code == 0
    assert "this run is not finished (burnish resume" in done.stderr
    complained(
        burnish("export", tmp_path / "out", "--to", tmp_path / "to", "--format", "signals"), 2, "decided nothing"
    )


def test_a_report_goes_where_it_is_told_to_with_the_truth_it_is_told(
    client: Client, data: Path, truth: Path, tmp_path: Path
) -> None:
    run, page = tmp_path / "run", tmp_path / "page.html"
    run_recipe(ClearSettings(data=str(data), model="base", seed=7, filter_only=True), client, run)
    done = burnish("report", run, "--out", page, "--truth", truth)
    assert (done.exit_code, done.stdout) == (0, f"{page}\n")
    assert "Against what is known to be wrong" in page.read_text(encoding="utf-8")
    assert "swapped" in page.read_text(encoding="utf-8")
    assert not (run / "report.html").exists()
    done = burnish("report", run)
    assert (done.exit_code, done.stdout) == (0, f"{run / 'report.html'}\n")
    assert "swapped" not in (run / "report.html").read_text(encoding="utf-8")
    page.unlink()
    complained(burnish("report", run, "--out", page, "--truth", "nowhere"), 2, "nowhere: there is no such file")
    assert not page.exists()
