"""A grid of runs on one ledger: nothing that is shared is asked for twice, and every point is a run of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish import Client, UsageError
from burnish.cli.clear_options import CLEAR
from burnish.cli.middo_options import MIDDO
from burnish.cli.sweep import _record, asked, setting_paths, varied
from burnish.coordinator.errors import (
    CoordinatorError,
    DataAway,
    InputError,
    Interrupted,
    LedgerBusy,
    LedgerError,
    RunMismatch,
    StepFailed,
)
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import RunOptions, resume, run_recipe
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import Observer, StepProgress, read_status
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.sweep import Point, PointResult, PointsFailed, begun, grid, sweep
from burnish.coordinator.sweep_status import read_sweep
from burnish.testing import FakeServices
from tests.e2e.commands import burnish, complained
from tests.e2e.support import Watcher, alpaca, digest_of_final, write_jsonl


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", alpaca(30))


def points(data: Path, **vary: list[str]) -> list[Point]:
    base: dict[str, Any] = {"data": str(data), "model": "base", "seed": 7}
    return [Point(v, ClearSettings.parse(varied(base, setting_paths(CLEAR), v))) for v in grid(vary)]


def test_what_is_shared_is_paid_for_once(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    grid_of = points(data, eta=["0.5", "0.7"], beta=["0.7", "1"], swap=["true", "false"])
    results = sweep(grid_of, client, out, options=RunOptions(batch_size=10))
    assert len(results) == 8
    estimated = Counter(s.id for r in fakes.requests("EstimateConfidence") for s in r.samples)
    assert set(estimated.values()) == {1}, "weights are applied to parts that are measured once"
    compared = Counter(pair.id for r in fakes.requests("ComparePairs") for pair in r.pairs)
    assert set(compared.values()) == {1}
    by_eta = {(r.point.varied["eta"], r.point.varied["beta"], r.point.varied["swap"]): r for r in results}
    for beta in ("0.7", "1"):
        low, high = (by_eta[eta, beta, "true"].actions.get("correct", 0) for eta in ("0.5", "0.7"))
        assert low >= high
    first, second = results[0], results[4]
    assert first.reused == 0
    assert second.reused > 40
    for result in results:
        with RunHistory.open(result.out) as history:
            assert history.run.config["settings"]["eta"] == float(result.point.varied["eta"])
            assert history.datasets()[-1].num_rows == result.rows_out
        assert state_of(result.out) == "done"
        assert not (result.out / "ledger.duckdb").exists()


def test_a_sweeps_folder_is_no_run(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    results = sweep(points(data, eta=["0.5", "0.6"]), client, out)
    for arguments in (("report", out), ("export", out, "--to", tmp_path / "exported")):
        said = f"{out} is the folder of a sweep, with 2 runs so far"
        complained(burnish(*arguments), 1, said, f"{results[0].out}, {results[1].out}")
    assert not (out / "report.html").exists()
    with pytest.raises(LedgerError, match="is the folder of a sweep, with 2 runs so far"):
        resume(out, client)
    with pytest.raises(LedgerError, match="is the folder of a sweep, with 2 runs so far"):
        run_recipe(results[0].point.settings, client, out)
    assert burnish("report", results[1].out).exit_code == 0
    # One that was begun in that folder, before the sweep or with its ledger, is known by name.
    written = json.loads((results[1].out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({"run_id": written["run_id"]}), encoding="utf-8")
    with RunHistory.open(out) as history:
        assert history.run_id == written["run_id"]


def test_a_sweep_s_folder_is_no_run_though_it_has_begun_but_one(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    (of_eta,) = points(data, eta=["0.5"])
    (result,) = sweep([Point({"model": "./a"}, of_eta.settings)], client, out)  # a value that names a folder
    assert result.out == out / "model=./a"
    with pytest.raises(LedgerError, match=r"the folder of a sweep, with 1 runs so far; expected .*sweep/model=\./a"):
        resume(out, client)


def test_one_value_written_in_two_ways_is_refused(client: Client, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"points eta=0\.5 and eta=0\.50 have the same settings"):
        sweep(points(data, eta=["0.5", "0.50", "0.6"]), client, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_model_is_trained_once_for_the_same_data(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Publisher(Observer):
        """Has the files of a model there, as the training service would."""

        def step_finished(self, step: StepProgress) -> None:
            if step.name == "train":
                for request in fakes.requests("CreateRun"):
                    Path(request.spec.output_uri).mkdir(parents=True, exist_ok=True)

    results = sweep(points(data, eta=["0.5", "0.99"]), client, tmp_path / "sweep", observer=Publisher())
    assert len(fakes.requests("CreateRun")) == 3, "one tuned model for both, and the last one of each"
    models = []
    for result in results:
        with RunHistory.open(result.out) as history:
            models.append(next(m for m in history.models() if (m.role, m.round) == ("trained", 1)))
    assert models[0].uri == models[1].uri


def test_a_sweep_makes_what_its_runs_would_make_alone(client: Client, data: Path, tmp_path: Path) -> None:
    grid_of = points(data, eta=["0.5", "0.6"])
    results = sweep(grid_of, client, tmp_path / "sweep")
    for number, result in enumerate(results):
        run_recipe(result.point.settings, client, tmp_path / f"alone{number}")
        assert digest_of_final(result.out) == digest_of_final(tmp_path / f"alone{number}")


def state_of(out: Path) -> str:
    status = read_status(out)
    assert status is not None
    return status.state


def test_an_interrupted_sweep_goes_on(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    class Stopper(Observer):
        def __init__(self) -> None:
            self.begun = 0

        def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
            self.begun += 1

        def step_finished(self, step: StepProgress) -> None:
            if self.begun == 2 and step.name == "confidence":
                raise Interrupted("asked")

    grid_of = points(data, eta=["0.5", "0.6"], **{"drop-fraction": ["0.3"]})
    with pytest.raises(Interrupted):
        sweep(grid_of, client, tmp_path / "out", observer=Stopper())
    second = tmp_path / "out" / grid_of[1].name
    assert state_of(second) == "interrupted"
    resume(second, client)
    assert state_of(second) == "done"
    before = len(fakes.requests("EstimateConfidence")), len(fakes.requests("CreateRun"))
    assert len(sweep(grid_of, client, tmp_path / "out")) == 2
    assert (len(fakes.requests("EstimateConfidence")), len(fakes.requests("CreateRun"))) == before


def test_what_a_point_is_compared_with_is_added_in_the_sweeps_ledger(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    held_out = write_jsonl(tmp_path / "held-out.jsonl", alpaca(34)[30:])
    values = {"data": str(data), "holdout": str(held_out), "model": "base", "seed": 7}
    settings = ClearSettings.parse(values)
    (result,) = sweep([Point({"seed": "7"}, settings)], client, tmp_path / "sweep")
    before = len(fakes.requests("EstimateConfidence"))
    run_recipe(settings, client, result.out, options=RunOptions(compare=True))
    assert len(fakes.requests("EstimateConfidence")) == before
    assert not (result.out / "ledger.duckdb").exists()
    assert RunPaths.find(result.out).ledger == tmp_path / "sweep" / "ledger.duckdb"
    assert RunPaths.find(result.out).services == tmp_path / "sweep" / "services"


def test_another_run_in_a_points_folder_is_refused(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (first,) = points(data, eta=["0.5"])
    sweep([first], client, out)
    other = Point(first.varied, first.settings.model_copy(update={"seed": 8}))
    with pytest.raises(PointsFailed, match=r"1 of 1 points(.|\n)*eta=0\.5: .*seed: 7 there, 8 now"):
        sweep([other], client, out)


def test_a_point_that_is_spelt_otherwise_is_the_same_run(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    held_out = write_jsonl(tmp_path / "held-out.jsonl", alpaca(34)[30:])

    def spelt(vary: dict[str, list[str]]) -> list[Point]:
        base: dict[str, Any] = {"data": str(data), "model": "base", "holdout": str(held_out)}
        return [Point(v, ClearSettings.parse(varied(base, setting_paths(CLEAR), v))) for v in grid(vary)]

    out = tmp_path / "sweep"
    first = sweep(spelt({"eta": ["0.5", "0.6"], "beta": ["0.7"]}), client, out)
    trained = len(fakes.requests("CreateRun"))
    (out / "eta=0.6,beta=0.7" / "final").rename(out / "gone")  # one is to be gone on with
    swapped = sweep(spelt({"beta": ["0.7"], "eta": ["0.5", "0.6"]}), client, out)
    assert [one.out for one in swapped] == [one.out for one in first]
    assert len(fakes.requests("CreateRun")) == trained
    assert (out / "eta=0.6,beta=0.7" / "final").is_dir()
    more = sweep(spelt({"eta": ["0.5", "0.60"], "beta": ["0.7"], "seed": ["0", "1"]}), client, out)
    assert [one.out.name for one in more] == [
        "eta=0.5,beta=0.7",
        "eta=0.5,beta=0.7,seed=1",
        "eta=0.6,beta=0.7",
        "eta=0.60,beta=0.7,seed=1",
    ]
    # What an older Burnish left in the other folder: the run's name, and none of its files.
    stray = out / "beta=0.7,eta=0.5"
    stray.mkdir()
    shutil.copy(first[0].out / "config.json", stray)
    assert sweep(spelt({"beta": ["0.7"], "eta": ["0.5"]}), client, out)[0].out == first[0].out


def test_a_run_of_a_shared_ledger_is_in_one_folder(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    (point,) = points(data, eta=["0.5"])
    (result,) = sweep([point], client, out)
    with pytest.raises(RunMismatch, match=rf"is in {result.out} and not in {out}/else; .*burnish resume {result.out}`"):
        run_recipe(point.settings, client, out / "else", ledger=out / "ledger.duckdb")
    assert not (out / "else" / "config.json").exists()


def test_a_point_that_cannot_be_done_holds_up_no_other(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Breaker(Watcher):
        broken = False

        def step_started(self, step: StepProgress) -> None:
            if not self.broken and step.name == "confidence":
                self.broken = True
                raise StepFailed("Out of luck.")

    out = tmp_path / "sweep"
    grid_of = points(data, eta=["0.5", "0.6"])
    missing = grid_of[0].settings.model_copy(update={"data": (str(tmp_path / "missing.jsonl"),)})
    all_of = [grid_of[0], Point({"data": "missing"}, missing), grid_of[1]]
    breaker = Breaker()
    with pytest.raises(PointsFailed, match=r"2 of 3 points could not be done") as failed:
        sweep(all_of, client, out, observer=breaker)
    _, first, second = str(failed.value).split("\n")
    assert first == "eta=0.5: Out of luck."
    assert second.startswith(f"data=missing: {tmp_path}/missing.jsonl")
    assert failed.value.exit_code == 1
    assert any(note.startswith("eta=0.5 could not be done, the others go on") for note in breaker.notes)
    assert state_of(out / grid_of[1].name) == "done"
    status = read_sweep(out)
    assert status is not None
    assert [(one.state, one.message) for one in status.points][::2] == [("failed", "Out of luck."), ("done", "")]
    assert (status.points[1].state, status.points[1].status) == ("failed", None)
    assert status.points[1].message.startswith(f"{tmp_path}/missing.jsonl")
    assert not status.at_work
    with pytest.raises(PointsFailed, match="1 of 3 points could not be done"):
        sweep(all_of, client, out)
    assert state_of(out / grid_of[0].name) == "done", "it was tried again"


@pytest.mark.parametrize("error", [Interrupted("asked"), DataAway("the store is away"), LedgerError("no")])
def test_what_is_not_a_points_own_ends_a_sweep(
    client: Client, data: Path, tmp_path: Path, error: CoordinatorError
) -> None:
    class Ender(Watcher):
        def step_started(self, step: StepProgress) -> None:
            raise error

    with pytest.raises(type(error)):
        sweep(points(data, eta=["0.5", "0.6"]), client, tmp_path, observer=Ender())
    assert not (tmp_path / "eta=0.6").exists()


def test_two_do_not_sweep_in_one_folder(client: Client, data: Path, tmp_path: Path) -> None:
    grid_of = points(data, eta=["0.5"])
    with begun(grid_of, tmp_path), pytest.raises(LedgerBusy, match=rf"being swept by process {os.getpid()}\..*-INT"):
        sweep(grid_of, client, tmp_path)


def test_values_become_settings() -> None:
    paths = setting_paths(MIDDO)
    chosen = asked(["axis=hard+sparse,low_quality", "epochs=0.5"], paths)
    (first, second) = grid(chosen)
    base = {"data": "d.json", "model": "m", "training": {"learning_rate": 1e-4}}
    settings = [MiddoSettings.parse(varied(base, paths, one)) for one in (first, second)]
    assert [list(map(str, one.axes)) for one in settings] == [["hard", "sparse"], ["low_quality"]]
    assert [s.training.num_epochs for s in settings] == [0.5, 0.5]
    assert settings[0].training.learning_rate == 1e-4
    again = asked(["seed=1,2", "axis=hard", "seed=2,3"], paths)
    assert again == {"seed": ["1", "2", "3"], "axis": ["hard"]}, "what is named again is added"
    assert varied({}, paths, {"learning-rate": "1e+0"}) == {"training": {"learning_rate": "1e+0"}}, "one number"


@pytest.mark.parametrize(
    ("vary", "why"),
    [("eta", "expected an option's name"), ("eta=", "expected an option's name"), ("teir=fast", "no option --teir")],
)
def test_a_grid_that_cannot_be_read_is_refused(vary: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        asked([vary], setting_paths(CLEAR))


def test_a_grid_has_bounds() -> None:
    with pytest.raises(InputError, match="65 points; at most 64"):
        list(grid({"eta": [str(i / 65) for i in range(65)]}))
    with pytest.raises(InputError, match="something to vary"):
        list(grid({}))
    assert json.dumps(list(grid({"a": ["1", "2"], "b": ["3"]}))) == '[{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]'


def test_a_value_that_is_varied_is_not_written_over_by_the_rows_of_an_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.cli.sweep.write_report_of", lambda *_, **__: None)
    point = Point({"keep": "0.6"}, ClearSettings.parse({"data": "d", "model": "m"}))
    made = PointResult(point, tmp_path, 10, 6, {"keep": 6, "drop": 4}, (None, 1.5), 0, 0, 1.0)
    record = _record(made, "")
    assert (record["keep"], record["rows_keep"], record["drop"]) == ("0.6", 6, 4)


def test_a_setting_may_do_nothing_at_some_points_but_not_at_all_of_them(data: Path, tmp_path: Path) -> None:
    def swept(*more: object) -> Any:
        return burnish("sweep", "filter", "--data", data, "--folds", 3, "--keep", 0.5, *more, "--out", tmp_path / "out")

    complained(
        swept("--model", "m", "--vary", "signal=loss,length"), 2, "--folds has no effect", "at none of the 2 points"
    )
    with FakeServices() as fakes:
        done = swept("--endpoint", fakes.address, "--model", "base", "--vary", "signal=loss,cross_loss")
        assert done.exit_code == 0, done.stderr
