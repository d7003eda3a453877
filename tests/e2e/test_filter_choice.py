"""Which share of the rows is trained on, and by which of two signals, where trusted rows say so: whole runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from burnish import Client
from burnish.coordinator.arms import arm_of
from burnish.coordinator.errors import DataError, InputError
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.recipes.auto.settings import AutoSettings
from burnish.coordinator.recipes.filter.loop import COVERING, FOLD, RIVAL, TRIED, TRUSTED
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.report.collect import collect
from burnish.report.render import render
from burnish.testing import FakeServices
from tests.e2e.filtering import filtered, lines, prompts
from tests.e2e.support import ROWS, Watcher, alpaca, history, write_jsonl

SHARES = (1.0, 0.85, 0.7, 0.5)


@pytest.fixture
def many_trusted(tmp_path: Path) -> Path:
    """Enough to calibrate by."""
    return write_jsonl(tmp_path / "many.jsonl", [{**row, "instruction": "Else?"} for row in alpaca(24)])


def judged_by_rounds(better: Mapping[int, float]) -> Callable[[Any], None]:
    """Has the fake score samples by the round in which their model was trained: nats per token by that."""

    def change(reply: Any) -> None:
        number = Path(reply.model.uri).name.removeprefix("round-")
        if not number.isdigit() or int(number) not in better:
            return
        for score in reply.scores:
            score.mean_nll = better[int(number)] * (1 + 0.01 * (score.num_tokens % 3))
            score.sum_nll = score.mean_nll * score.num_tokens

    return change


@pytest.mark.parametrize(
    ("losses", "share", "rows"),
    [
        ((1.0, 0.8, 0.9), 0.8, 32),
        ((1.0, 1.1, 0.9), 0.5, 20),
        ((1.0, 1.0, 1.2), 1.0, 39),
    ],
)
def test_trusted_rows_say_which_share_is_taken(
    fakes: FakeServices,
    client: Client,
    data: Path,
    holdout: Path,
    trusted: Path,
    tmp_path: Path,
    losses: tuple[float, ...],
    share: float,
    rows: int,
) -> None:
    fakes.change_reply("ScoreSamples", judged_by_rounds({TRIED + place: loss for place, loss in enumerate(losses)}))
    watcher, out = Watcher(), tmp_path / "out"
    summary = filtered(
        client, data, out, watcher, trusted=str(trusted), holdout=str(holdout), signal="loss", shares="0.8,0.5",
        weighted=True, random_subsets=1,
    )  # fmt: skip
    assert summary.rows_out == rows
    assert [len(lines(out / f"data/round-{TRIED + place}.jsonl")) for place in range(3)] == [39, 32, 20]
    with history(out) as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        models = {model.round: model for model in h.models()}
        page = render(collect(h))
    assert step.detail["share"] == share
    taken = TRIED + (1.0, 0.8, 0.5).index(share)
    assert models[2].digest == models[taken].digest
    assert "weight" not in lines(out / f"data/round-{TRIED}.jsonl")[0], "all rows are trained on as they are"
    assert ("weight" in lines(out / "data/round-2.jsonl")[0]) == (share < 1)
    assert f"the best {share:.0%}" in page or share == 1.0
    assert "Which share was taken" in page
    kept = "all rows are kept" if share == 1.0 else f"The best {share:.0%} are kept"
    assert any(kept in note for note in watcher.notes)


def test_auto_tries_shares_where_there_are_trusted_rows_to_judge_by(
    client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    with_trusted = AutoSettings(data=str(data), model="base", trusted=str(trusted))
    assert (with_trusted.tried(), with_trusted.middle()) == (SHARES[1:], 0.7)
    with pytest.raises(InputError, match="trusted rows say which of the shares is taken"):
        AutoSettings.parse({"data": str(data), "model": "base"})
    watcher = Watcher()
    rows_out = run_recipe(with_trusted, client, tmp_path / "out", observer=watcher).rows_out
    with history(tmp_path / "out") as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        page = render(collect(h))
    tried: Any = step.detail["tried"]
    assert [one["share"] for one in tried] == list(SHARES)
    # Too few to calibrate by are enough to choose a share by.
    assert "Signal calibrated ranks too few of the rows; only weakest is tried." in watcher.notes
    assert "Signal calibrated was to be tried as well, and was not" in page
    assert {one["signal"] for one in tried} == {"weakest"}
    assert "held" not in step.detail
    assert rows_out == {1.0: 39, 0.85: 34, 0.7: 28, 0.5: 20}[float(str(step.detail["share"]))]
    assert "Which share was taken" in page


@pytest.mark.parametrize(
    ("own", "rivals", "taken"),
    [
        (0.9, 0.8, ("calibrated", 0.7)),
        (0.8, 0.9, ("weakest", 0.7)),
        (0.8, 0.8, ("weakest", 0.7)),
        (1.1, 1.05, ("calibrated", 0.85)),  # neither is better than all rows; a share that leaves out less is
        (1.1, 1.1, ("weakest", 0.85)),
    ],
)
def test_the_signal_whose_middle_share_is_better_is_tried_on_the_others(
    fakes: FakeServices,
    client: Client,
    data: Path,
    many_trusted: Path,
    tmp_path: Path,
    own: float,
    rivals: float,
    taken: tuple[str, float],
) -> None:
    own_losses, rival_losses = (1.0, 0.95, own, 1.2), (0.0, 0.95, rivals, 1.2)
    by_round = {TRIED + place: loss for place, loss in enumerate(own_losses)}
    by_round |= {RIVAL + place: loss for place, loss in enumerate(rival_losses) if place} | {COVERING: 1.2}
    fakes.change_reply("ScoreSamples", judged_by_rounds(by_round))
    out, watcher = tmp_path / "out", Watcher()
    settings = AutoSettings(data=str(data), model="base", trusted=str(many_trusted), cover=True)
    run_recipe(settings, client, out, observer=watcher)
    with history(out) as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        models = {model.round: model.digest for model in h.models()}
        dropped = {one.row_id for one in h.decisions(1) if one.actions == ("drop",)}
        config = h.run.config
        page = render(collect(h))
    tried: Any = step.detail["tried"]
    signal, share = taken
    other = "weakest" if signal == "calibrated" else "calibrated"
    assert (step.detail["signal"], step.detail["share"]) == taken
    middle = [(one["signal"], one["share"]) for one in tried if 0.7 in (one["share"], one["held"])]
    assert middle == [(signal, 0.7), (signal, 0.85), (other, 0.7)], "the better one first, and what covers"
    assert [one["signal"] for one in tried if one["share"] in (0.85, 0.5)] == [signal] * 3
    own_round = (RIVAL if signal == "calibrated" else TRIED) + SHARES.index(share)
    assert models[2] == models[own_round], "trained on the same rows"
    assert {row["id"] for row in lines(out / f"data/round-{own_round}.jsonl")}.isdisjoint(dropped)
    assert any(f"The best {share:.0%} by {signal} are kept" in note for note in watcher.notes)
    assert f"the best {share:.0%} by {signal} <span" in page
    assert arm_of("auto", config, RIVAL + 2).name == "the best 70% by calibrated, to try it"
    assert arm_of("auto", config, TRIED + 1).name == "the best 85%, to try it"


def test_what_covers_the_largest_share_is_taken_where_it_is_better(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, holdout: Path, tmp_path: Path
) -> None:
    losses = {TRIED: 1.0, TRIED + 1: 0.9, TRIED + 2: 0.9, TRIED + 3: 1.2, COVERING: 0.7}
    fakes.change_reply("ScoreSamples", judged_by_rounds(losses))
    out, watcher = tmp_path / "out", Watcher()
    settings = AutoSettings(
        data=str(data), model="base", trusted=str(trusted), holdout=str(holdout), rival=None, cover=True,
        random_subsets=1,
    )  # fmt: skip
    summary = run_recipe(settings, client, out, observer=watcher)
    tried, made = lines(out / f"data/round-{COVERING}.jsonl"), lines(out / "data/round-2.jsonl")
    assert made == tried, "trained on the same rows, which count as much"
    assert summary.rows_out == len(made) == len(lines(out / f"data/round-{TRIED + 2}.jsonl")) == 28
    assert made[0]["weight"] != made[1]["weight"]
    with history(out) as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        models = {model.round: model.digest for model in h.models()}
        kept = {one.row_id for one in h.decisions(1) if one.actions == ("keep",)}
        left_out = {one.row_id for one in h.held(1) if not one.kept}
        config = h.run.config
        page = render(collect(h))
    assert (step.detail["share"], step.detail["held"]) == (0.85, 0.7)
    assert models[2] == models[COVERING]
    assert {row["id"] for row in made} == kept - left_out
    assert (len(kept), len(left_out)) == (34, 6)
    assert "Of the best 85%, 70% of all rows are kept, which cover them best" in " ".join(watcher.notes)
    assert "70.0%, which cover the best 85.0% <span" in page or "70%, which cover the best 85% <span" in page
    assert arm_of("auto", config, COVERING).name == "what covers the best 85%, to try it"


@pytest.mark.parametrize("unscored", ["keep", "drop"])
def test_what_covers_is_as_many_rows_as_the_middle_share_where_some_have_no_value(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path, unscored: str
) -> None:
    def too_long(reply: Any) -> None:
        judged_by_rounds({COVERING: 0.5, **{TRIED + place: 1.0 for place in range(4)}})(reply)
        for score in reply.scores:
            if Path(reply.model.uri).name == "base" and int(score.sample_id[-2:], 16) < 60:
                name = score.sample_id
                score.Clear()
                score.sample_id, score.status.code, score.status.reason = name, 3, "TOO_LONG"

    fakes.change_reply("ScoreSamples", too_long)
    settings = AutoSettings(
        data=str(data), model="base", trusted=str(trusted), rival=None, cover=True, unscored=unscored
    )
    out = tmp_path / "out"
    run_recipe(settings, client, out)
    with history(out) as h:
        (line,) = h.thresholds(1)
    assert line.num_excluded > 5
    assert {row["id"] for row in lines(out / f"data/round-{COVERING}.jsonl")} < {
        row["id"] for row in lines(out / f"data/round-{TRIED + 1}.jsonl")
    }
    middle = len(lines(out / f"data/round-{TRIED + 2}.jsonl"))
    assert len(lines(out / f"data/round-{COVERING}.jsonl")) == len(lines(out / "data/round-2.jsonl")) == middle


def test_auto_does_without_what_covers_where_neurons_cannot_be_read(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    message = "the calibration has measured 0 samples, expected at least 2"
    fakes.fail_next(
        "FinishCalibration", grpc.StatusCode.FAILED_PRECONDITION, message, reason="CALIBRATION_TOO_SMALL", times=9
    )
    watcher, out = Watcher(), tmp_path / "out"
    settings = AutoSettings(data=str(data), model="base", trusted=str(trusted), cover=True)
    run_recipe(settings, client, out, observer=watcher)
    assert any("What covers the best 85% cannot be told, and is not tried" in note for note in watcher.notes)
    with history(out) as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        page = render(collect(h))
    tried: Any = step.detail["tried"]
    assert [one["share"] for one in tried] == list(SHARES)
    assert "which cover the best" not in page
    assert "What covers the largest share was to be tried as well, and was not" in page


def test_nothing_covers_a_single_share(data: Path) -> None:
    given = {"data": str(data), "model": "base", "trusted": "t", "cover": True}
    assert AutoSettings.parse(given).covers()
    with pytest.raises(InputError, match="cover has no effect on a single one of shares"):
        AutoSettings.parse({**given, "shares": "0.7"})
    begun = AutoSettings.parse(given).model_dump(mode="json") | {"shares": [0.7]}
    assert not AutoSettings.stored(begun).covers()
    with pytest.raises(InputError, match="cover is of the largest one of the shares, and there are none"):
        FilterSettings.parse({"data": "d", "model": "m", "cover": True})


def test_nothing_is_left_out_where_no_signal_helps(
    fakes: FakeServices, client: Client, data: Path, many_trusted: Path, tmp_path: Path
) -> None:
    by_round = {TRIED + place: 1.0 + place for place in range(4)}
    fakes.change_reply("ScoreSamples", judged_by_rounds({**by_round, RIVAL + 2: 1.5, COVERING: 1.5}))
    settings = AutoSettings(data=str(data), model="base", trusted=str(many_trusted), cover=True)
    assert run_recipe(settings, client, tmp_path / "out").rows_out == 43
    with history(tmp_path / "out") as h:
        assert all(one.actions == ("keep",) for one in h.decisions(1))


def test_no_trusted_row_both_teaches_and_judges(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = {"signal": "cross_weakest", "shares": "0.5", "trusted": str(trusted)}
    filtered(client, data, out, start="trusted", **asked)
    taught = set(prompts(out / f"data/round-{TRUSTED}.jsonl"))
    judged = {
        sample.messages[-2].content
        for request in fakes.requests("ScoreSamples")
        if Path(request.model.uri).name == f"round-{TRIED}"
        for sample in request.samples
    }
    assert not taught & judged
    assert taught | judged == set(prompts(out / "data/trusted.jsonl"))
    assert abs(len(taught) - len(judged)) <= 1

    filtered(client, data, tmp_path / "folds", **asked)
    for fold in range(2):
        learnt = set(prompts(tmp_path / f"folds/data/round-{FOLD + fold}.jsonl"))
        assert learnt > taught
        assert not learnt & judged


def test_one_trusted_row_is_not_enough_to_choose_by(client: Client, data: Path, tmp_path: Path) -> None:
    alone = write_jsonl(tmp_path / "alone.jsonl", [{**ROWS[0], "instruction": "Else?"}] * 3)
    with pytest.raises(DataError, match="judge which share is taken are 1 different ones; expected at least 2"):
        filtered(client, data, tmp_path / "out", trusted=str(alone), signal="loss", shares="0.5")
    with history(tmp_path / "out") as book:
        assert {model.role for model in book.models()} == {"base"}, "nothing is trained for nothing"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rival": "loss", "shares": ()}, "a rival is tried on the middle one of the shares, and there are none"),
        ({"rival": "weakest"}, "the rival is weakest; expected another signal than weakest"),
        (
            {"rival": "cross_loss"},
            "the rival is cross_loss; expected another signal than weakest, of those of the",
        ),
        ({"rival": "calibrated", "trusted": ()}, "trusted rows say which of the shares is taken, and there are none"),
    ],
)
def test_a_rival_that_cannot_be_tried_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        FilterSettings.parse({"data": "d", "model": "m", "signal": "weakest", "shares": "0.5", "trusted": "t"} | wrong)


def test_auto_may_go_by_one_signal_alone(data: Path) -> None:
    given = {"data": str(data), "model": "base", "trusted": "t"}
    assert AutoSettings.parse(given).signals() == ("weakest", "calibrated")
    assert AutoSettings.parse({**given, "rival": "none"}).signals() == ("weakest",)
    assert AutoSettings.parse({**given, "signal": "calibrated"}).signals() == ("calibrated",)
    assert AutoSettings.parse({**given, "signal": "calibrated", "rival": "weakest"}).signals() == (
        "calibrated",
        "weakest",
    )
    alone = AutoSettings.parse({**given, "signal": "calibrated"})
    assert AutoSettings.stored(alone.model_dump(mode="json")) == alone
