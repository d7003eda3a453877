"""The commands for one capability print what the SDK answers, a line for every sample in the file's order, those that
failed too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from burnish import Client
from burnish._confidence_types import ConfidenceTier
from burnish._coverage_types import (
    ActivationPooling,
    CoverageCandidate,
    CoverageObjective,
    CoverageOptimizer,
    CoverageSettings,
    FeatureRule,
    FeatureWeighting,
)
from burnish._response_types import Prompt
from burnish._types import (
    Dimension,
    ItemStatus,
    JudgeMode,
    Message,
    RewriteItem,
    Role,
    Sample,
    Sampling,
    Strategy,
    Target,
    TokenSpan,
)
from burnish.cli.select import summary
from burnish.coordinator.content import sample_hash
from burnish.coordinator.coverage import FeatureChoice, features_collection
from burnish.coordinator.formats import load
from burnish.coordinator.policy.middo import recall_note
from burnish.coordinator.steps import measure
from burnish.testing import FakeServices
from tests.e2e.commands import burnish, complained, lines
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import ROWS, alpaca, write_jsonl

LONG = "word " * 20_000  # more tokens than the context, and more bytes than the smallest message


@pytest.fixture
def sdk(services: FakeEngineServices) -> Iterator[Client]:
    with Client(services.address) as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three samples, the second of which is longer than the context."""
    # In words that the fake engine's answers have, too.
    first, second, third = ({**row, "output": f"All about {row['id']}, that number."} for row in alpaca(3))
    return write_jsonl(tmp_path / "rows.jsonl", [first, {**second, "instruction": LONG}, third])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "good.jsonl", alpaca(3))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Settings by which the long sample cannot even be sent."""
    path = tmp_path / "small.toml"
    path.write_text("max_message_bytes = 65536\n", encoding="utf-8")
    return path


def asked(services: FakeEngineServices, name: str, data: Path, *more: object) -> Result:
    return burnish(name, "--endpoint", services.address, "--model", services.model, "--data", data, *more)


def samples(path: Path) -> list[Sample]:
    return list(load([path]).samples)


def error(status: ItemStatus, reason: str = "TOO_LONG") -> dict[str, Any]:
    """What the line of a sample says that failed so."""
    assert status.reason == reason
    return {"error": {"reason": reason, "message": status.message, "retryable": status.retryable}}


def test_score(services: FakeEngineServices, sdk: Client, rows: Path) -> None:
    done = asked(services, "score", rows, "--tokens", "--ifd", "--distribution")
    complained(done, 1, "burnish: 1 of 3 samples failed; the first: s1: ")
    first, second, third = lines(done.stdout)
    batch = sdk.scoring.score(
        samples(rows), model=str(services.model), return_tokens=True, unconditional=True, distribution=True
    )
    assert [one.sample_id for one in batch.scores] == ["s0", "s1", "s2"]
    assert second == {"id": "s1"} | error(batch.scores[1].status)
    for line, one in ((first, batch.scores[0]), (third, batch.scores[2])):
        names = ["mean_nll", "sum_nll", "perplexity", "num_tokens", "mean_probability", "min_probability"]
        values = {name: getattr(one, name) for name in [*names, "mean_entropy", "mean_margin"]}
        assert one.unconditional is not None
        values |= {"id": one.sample_id, "ifd": one.unconditional.ifd, "pmi": one.unconditional.pmi}
        (turn,), (said,) = one.turns, line.pop("turns")
        assert line == values
        assert (said["message_index"], said["mean_nll"], said["num_tokens"]) == (1, turn.mean_nll, turn.num_tokens)
        assert turn.token_ids is not None
        assert turn.logprobs is not None
        assert said["token_ids"] == turn.token_ids.tolist()
        assert said["logprobs"] == pytest.approx(turn.logprobs.tolist(), abs=1e-6)


def test_score_says_no_more_than_is_asked_for(services: FakeEngineServices, good: Path, tmp_path: Path) -> None:
    with good.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"id": "s3", "instruction": "Q?", "output": ""}) + "\n")
    complained(asked(services, "score", good), 2, "good.jsonl, row 4", '"output" is empty')
    out = tmp_path / "scores.jsonl"
    done = asked(services, "score", good, "--skip-bad-rows", "--limit", "2", "--out", out)
    complained(done, 0, "note: ", "row 4")
    assert done.stdout == ""
    said = lines(out.read_text(encoding="utf-8"))
    assert [line["id"] for line in said] == ["s0", "s1"]
    assert said[0].keys() == {
        *("id", "mean_nll", "sum_nll", "perplexity", "num_tokens", "mean_probability", "min_probability", "turns"),
    }
    assert said[0]["turns"][0].keys() == {"message_index", "mean_nll", "num_tokens"}


@pytest.mark.parametrize("mode", list(JudgeMode))
def test_judge(services: FakeEngineServices, sdk: Client, rows: Path, small: Path, mode: JudgeMode) -> None:
    done = asked(
        services,
        *("judge", rows, "--config", small, "--mode", mode.value, "--dimension", "factuality", "--target", "response"),
        *("--dimension", "clarity", "--temperature", "0.9", "--max-tokens", "5", "--seed", "3"),
    )
    complained(done, 1, "1 of 3 samples failed; the first: s1: takes")
    first, second, third = lines(done.stdout)
    assert (second["id"], second["error"]["reason"], second["error"]["retryable"]) == ("s1", "TOO_LARGE", False)
    assert second.keys() == {"id", "error"}
    batch = sdk.scoring.judge(
        [one for one in samples(rows) if one.id != "s1"],
        model=str(services.model),
        dimensions=[Dimension.FACTUALITY, Dimension.CLARITY],
        targets=[Target.RESPONSE],
        sampling=Sampling(temperature=0.9, max_tokens=5, seed=3),
        mode=mode,
    )
    for line, one in zip((first, third), batch.judgments, strict=True):
        assert line["id"] == one.sample_id
        assert len(line["ratings"]) == len(one.ratings) == 2
        for said, rating in zip(line["ratings"], one.ratings, strict=True):
            more = {"reply": rating.reply} if rating.digits is None else {"covered_mass": rating.digits.covered_mass}
            assert said == {"dimension": rating.dimension, "target": "response", "value": rating.value} | more
            assert set(more) == ({"reply"} if mode is JudgeMode.GENERATED else {"covered_mass"})


def test_a_rating_that_could_not_be_had_says_why(services: FakeEngineServices, sdk: Client, rows: Path) -> None:
    done = asked(services, *("judge", rows, "--dimension", "clarity", "--target", "response"))
    first, second, _ = lines(done.stdout)
    assert "error" not in first["ratings"][0]
    (rating,) = (
        sdk.scoring.judge(
            samples(rows)[1:2], model=str(services.model), dimensions=[Dimension.CLARITY], targets=[Target.RESPONSE]
        )
        .judgments[0]
        .ratings
    )
    assert rating.status.message
    assert (second["ratings"][0]["value"], second["ratings"][0]["error"]) == (None, rating.status.message)


def test_confidence(services: FakeEngineServices, sdk: Client, rows: Path) -> None:
    done = asked(
        services,
        *("confidence", rows, "--tier", "standard", "--alpha", "0.3", "--beta", "0.4", "--answers", "3"),
        *("--temperature", "0.7", "--max-tokens", "60", "--seed", "5"),
    )
    complained(done, 1, "1 of 3 samples failed; the first: s1: ")
    said = lines(done.stdout)
    batch = sdk.scoring.confidence(
        samples(rows),
        model=str(services.model),
        tier=ConfidenceTier.STANDARD,
        alpha=0.3,
        beta=0.4,
        num_answers=3,
        sampling=Sampling(temperature=0.7, max_tokens=60, seed=5),
    )
    assert said[1] == {"id": "s1"} | error(batch.estimates[1].status)
    names = ("confidence", "consistency", "reflection", "covered_mass", "mean_nll", "mean_probability")
    of_answers = ("text", "exact_match", "similarity", "agreement")
    for line, one in ((said[0], batch.estimates[0]), (said[2], batch.estimates[2])):
        assert one.confidence is not None
        assert line == {
            "id": one.sample_id,
            **{name: getattr(one, name) for name in names},
            "answers": [{name: getattr(answer, name) for name in of_answers} for answer in one.answers],
        }
        assert len(line["answers"]) == 3
    assert any(answer["similarity"] for line in (said[0], said[2]) for answer in line["answers"]), "alpha weighs it"


def test_a_confidence_that_nothing_speaks_for_is_none(services: FakeEngineServices, good: Path) -> None:
    done = asked(services, "confidence", good, "--min-mass", "0.95")  # the fake engine's letters have 0.9
    complained(done, 1, "3 of 3 samples failed; the first: s0: ")
    assert [line["error"]["reason"] for line in lines(done.stdout)] == ["NOTHING_TO_GO_BY"] * 3


@pytest.mark.parametrize("a_reply", [None, 3])
def test_embed(
    services: FakeEngineServices, sdk: Client, rows: Path, monkeypatch: pytest.MonkeyPatch, a_reply: int | None
) -> None:
    if a_reply is not None:  # as of a set whose neighbours do not fit one: each sample is asked for by itself
        monkeypatch.setattr(measure, "NEIGHBORS_A_REPLY", a_reply)
    done = asked(services, "embed", rows, "--collection", "commanded")
    complained(done, 1, "1 of 3 samples failed; the first: s1: ")
    found = sdk.embedding.neighbor_statistics("commanded", ["s0", "s2"])
    said = lines(done.stdout)
    assert [line["id"] for line in said] == ["s0", "s1", "s2"]
    assert (set(said[1]), said[1]["error"]["reason"]) == ({"id", "error"}, "TOO_LONG")
    for line, one in zip((said[0], said[2]), found.statistics, strict=True):
        neighbors = [{"id": near.sample_id, "cosine": near.cosine} for near in one.neighbors]
        assert line == {"id": one.sample_id, "mean_cosine": one.mean_cosine, "neighbors": neighbors}
        assert len(neighbors) == 1
    assert sdk.embedding.get_collection("commanded").num_vectors == 2


def test_embed_cuts_and_seeks_in_cells_where_it_is_told_to(
    services: FakeEngineServices, sdk: Client, rows: Path
) -> None:
    done = asked(services, "embed", rows, *("--collection", "cut", "--truncate", "-k", "1", "--recall", "0.5"))
    found = sdk.embedding.neighbor_statistics("cut", k=1, recall=0.5)
    assert found.num_cells > 0
    complained(done, 0, f"note: {recall_note(found.recall, found.num_queries)}")
    assert [(line["id"], [near["id"] for near in line["neighbors"]]) for line in lines(done.stdout)] == [
        (one.sample_id, [near.sample_id for near in one.neighbors]) for one in found.statistics
    ]


def test_select(services: FakeEngineServices, sdk: Client, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "many.jsonl", alpaca(8, duplicates=1))
    done = asked(
        services,
        *("select", data, "--budget", "3", "--objective", "max_cover", "--optimizer", "partition", "--rule", "top_k"),
        *("-k", "4", "--pooling", "mean", "--tokens", "all", "--weighting", "idf", "--seed", "5", "--witnesses"),
    )
    rows: dict[str, str] = {}
    for one in samples(data):
        rows.setdefault(sample_hash(one.messages), one.id)
    choice = FeatureChoice(FeatureRule.TOP_K, 4, ActivationPooling.MEAN, TokenSpan.ALL, seed=5)
    version = sdk.embedding.load_model(str(services.model))
    found = sdk.embedding.select(
        features_collection(version, TokenSpan.ALL, choice, ""),
        3,
        [CoverageCandidate(name) for name in rows],
        settings=CoverageSettings(
            objective=CoverageObjective.MAX_COVER,
            optimizer=CoverageOptimizer.PARTITION,
            weighting=FeatureWeighting.IDF,
            seed=5,
        ),
        return_witnesses=True,
        num_random_curves=3,
    )
    said_last = summary(found, 9, 8)
    assert "three random selections of that size" in said_last[1]
    complained(done, 0, "Selected 3 of 8 different samples (9 rows).", *said_last)
    picked = [{"id": rows[s.sample_id], "rank": n, "gain": s.gain} for n, s in enumerate(found.selected, start=1)]
    left = {rows[w.sample_id]: (rows[w.nearest_id], w.cosine) for w in found.witnesses}
    said = lines(done.stdout)
    assert len(picked) == 3
    assert said[:3] == picked
    told = {line["id"]: (line["nearest"], line["cosine"]) for line in said[3:]}
    assert told.keys() | {line["id"] for line in picked} == {"copy0", *rows.values()}
    assert told.pop("copy0") == (("s0", 1.0) if "s0" in {line["id"] for line in picked} else left["s0"])
    assert told == left


def test_select_leaves_aside_what_cannot_be_read(services: FakeEngineServices, rows: Path, small: Path) -> None:
    done = asked(services, "select", rows, "--config", small, "--budget", "2", "--calibration-size", "3")
    complained(done, 1, "Selected 2 of 3 different samples (3 rows).", "1 samples were left aside; the first: takes")
    said = lines(done.stdout)
    assert sorted(line["id"] for line in said) == ["s0", "s2"]
    assert [line["rank"] for line in said] == [1, 2]


def test_select_of_nothing_that_can_be_read(services: FakeEngineServices, tmp_path: Path, small: Path) -> None:
    data = write_jsonl(tmp_path / "long.jsonl", [{"instruction": LONG, "output": "So."}])
    done = asked(services, "select", data, "--config", small, "--rule", "top_k")
    complained(done, 2, "not one of 1 samples can be read; the first: takes")
    assert done.stdout == ""


@pytest.mark.parametrize(("strategy", "most"), [(Strategy.SIMPLIFY, 200), (Strategy.IMPROVE, 30)])
def test_rewrite(services: FakeEngineServices, sdk: Client, rows: Path, strategy: Strategy, most: int) -> None:
    done = asked(
        services,
        *("rewrite", rows, "--strategy", strategy.value, "--attempts", "2", "--temperature", "0.7"),
        *("--max-tokens", most, "--seed", "4"),
    )
    sampling = Sampling(temperature=0.7, max_tokens=most, seed=4)
    batch = sdk.rewriting.rewrite(
        [RewriteItem(one) for one in samples(rows)],
        strategy,
        model=str(services.model),
        sampling=sampling,
        max_attempts=2,
    )
    number = sum(not one.status.ok for one in batch.rewrites)
    complained(done, 1, f"{number} of 3 samples failed; the first: ")
    said = lines(done.stdout)
    assert said[1] == {"id": "s1", "attempts": []} | error(batch.rewrites[1].status)
    assert said == [rewritten(one) for one in batch.rewrites]
    accepted, rejected = (sum(name in line for line in (said[0], said[2])) for name in ("messages", "error"))
    assert (accepted, rejected) == ((2, 0) if most > 100 else (0, 2))
    assert rejected == 0 or [tried["rejection"] for tried in said[0]["attempts"]] == ["truncated"] * 2


def test_rewrites_to_be_different_have_what_stands_beside_them_as_neighbours(
    services: FakeEngineServices, sdk: Client, good: Path
) -> None:
    done = asked(services, "rewrite", good, "--strategy", "diversify")
    one, two, three = samples(good)
    items = [RewriteItem(one, (two,)), RewriteItem(two, (one, three)), RewriteItem(three, (two,))]
    sampling = Sampling(temperature=1.0, seed=0)
    batch = sdk.rewriting.rewrite(
        items, Strategy.DIVERSIFY, model=str(services.model), sampling=sampling, max_attempts=3
    )
    assert lines(done.stdout) == [rewritten(one) for one in batch.rewrites]
    assert done.exit_code == (0 if all(one.status.ok for one in batch.rewrites) else 1)
    alone = sdk.rewriting.rewrite(
        [RewriteItem(two, (one,))], Strategy.DIVERSIFY, model=str(services.model), sampling=sampling, max_attempts=3
    )
    assert alone.rewrites[0] != batch.rewrites[1], "the neighbours have a part in it"


def rewritten(one: Any) -> dict[str, Any]:
    """The line of one rewrite."""
    attempts = {"attempts": [{"rejection": tried.rejection, "detail": tried.detail} for tried in one.attempts]}
    if not one.status.ok:
        return {"id": one.sample_id} | attempts | error(one.status, one.status.reason)
    messages = [{"role": message.role, "content": message.content} for message in one.sample.messages]
    return {"id": one.sample_id, "messages": messages} | attempts


def test_respond(services: FakeEngineServices, sdk: Client, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "responses.jsonl"
    done = asked(
        services,
        *("respond", rows, "--responses", "2", "--temperature", "0.8", "--max-tokens", "40", "--seed", "5"),
        *("--out", out),
    )
    complained(done, 1, "1 of 3 samples failed; the first: s1: ")
    batch = sdk.rewriting.respond(
        [Prompt(one.id, one.messages[:-1]) for one in samples(rows)],
        model=str(services.model),
        num_responses=2,
        sampling=Sampling(temperature=0.8, max_tokens=40, seed=5),
    )
    names = ("text", "finish_reason", "num_tokens", "mean_logprob")
    said = lines(out.read_text(encoding="utf-8"))
    assert done.stdout == ""
    assert said[1] == {"id": "s1"} | error(batch.results[1].status)
    for line, one in ((said[0], batch.results[0]), (said[2], batch.results[2])):
        responses = [{name: getattr(response, name) for name in names} for response in one.responses]
        assert line == {"id": one.prompt_id, "responses": responses}
        assert len(responses) == 2
        assert responses[0] != responses[1]


def test_columns_may_be_called_something_else(
    services: FakeEngineServices, fakes: FakeServices, sdk: Client, tmp_path: Path
) -> None:
    rows = [{"name": r["id"], "ask": r["instruction"], "answer": r["output"], "kept": "as it is"} for r in ROWS]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    named = ("--column", "instruction=ask", "--column", "output=answer", "--column", "id=name")
    said = lines(asked(services, "score", data, *named).stdout)
    expected = [Sample(r["name"], (Message(Role.USER, r["ask"]), Message(Role.ASSISTANT, r["answer"]))) for r in rows]
    scores = sdk.scoring.score(expected, model=str(services.model)).scores
    assert [(line["id"], line["mean_nll"]) for line in said] == [(one.sample_id, one.mean_nll) for one in scores]
    out = tmp_path / "run"
    done = burnish(
        *("run", "clear", "--endpoint", fakes.address, "--model", "base", "--data", data, "--out", out),
        *("--holdout", data, *named),
    )
    assert done.exit_code == 0, done.stderr
    final = lines((out / "final/data.jsonl").read_text(encoding="utf-8"))
    assert final[0].keys() == rows[0].keys()
    for wrong in ("answer", "output=", "outputs=answer"):
        done = burnish("score", "--data", data, "--model", "base", "--column", wrong)
        assert (done.exit_code, f"--column {wrong}: expected NAME=THEIRS" in done.stderr) == (2, True)
