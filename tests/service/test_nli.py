"""Contradiction judged by a pair classifier: a tiny random one, in every way but size what the full tier takes."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.nli import NliModel, contradiction_class
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.role import RoleUnavailable
from burnish_services.runtime.server import running
from tests.service.support import sample

WORDS = ["the", "sky", "is", "blue", "red", "not", "and", "sea", "a", "of", "it", "was"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    directory = tmp_path_factory.mktemp("nli")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=32).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, initializer_range=0.5, id2label={0: "neutral", 1: "CONTRADICTION", 2: "entails"},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(directory)
    return directory


async def test_pairs_are_judged_alike_in_any_company(model: Path) -> None:
    pairs = [("the sky is blue", "the sky is red"), ("the sea", "it was not a sea and it is blue of red"), ("a", "a")]
    nli = NliModel(model, batch_size=2)
    together = await nli.contradictions(pairs)
    assert all(0 < p < 1 for p in together)
    for pair, found in zip(pairs, together, strict=True):
        assert (await nli.contradictions([pair]))[0] == pytest.approx(found, abs=1e-5)
    assert (await nli.contradictions([pairs[0][::-1]]))[0] != pytest.approx(together[0], abs=1e-4), "order counts"
    assert await nli.contradictions([]) == []
    nli.close()


async def test_texts_that_are_too_long_are_cut_and_judged(model: Path) -> None:
    nli = NliModel(model, batch_size=8)
    assert 0 < (await nli.contradictions([("the sky " * 500, "it is blue " * 500)]))[0] < 1
    nli.close()


def test_the_class_is_read_from_the_model() -> None:
    assert contradiction_class({0: "contradiction", 1: "neutral"}) == 0
    assert contradiction_class({0: "ENTAILMENT", 1: "NEUTRAL", 2: "Contradiction"}) == 2
    for labels in ({0: "LABEL_0", 1: "LABEL_1"}, {0: "contradiction", 1: "no_contradiction"}):
        with pytest.raises(ModelLoadError, match="contradiction"):
            contradiction_class(labels)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        NliModel(tmp_path, batch_size=8)


def server_settings(tmp_path: Path) -> ServerSettings:
    fake = write_fake_model(tmp_path / "fake")
    return ServerSettings(roles=("scoring",), engine="fake", model=str(fake), state_dir=tmp_path / "state", grace=2.0)


async def test_the_full_tier_compares_by_contradiction_in_both_orders(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_SCORING_NLI_MODEL", str(model))
    request = scoring_pb2.EstimateConfidenceRequest(
        samples=[sample("a", "what is the sky", "the sky is blue")],
        tier=scoring_pb2.CONFIDENCE_TIER_FULL,
        sampling=common_pb2.SamplingParameters(seed=1),
    )
    async with (
        running(server_settings(tmp_path), partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        (one,) = (await stub.EstimateConfidence(request)).estimates
    read = [answer for answer in one.answers if answer.status.code == 0]
    assert read, "the fake engine's replies have answers"
    nli = NliModel(model, batch_size=32)
    for answer in read:
        forward, backward = await nli.contradictions(
            [(answer.text, "the sky is blue"), ("the sky is blue", answer.text)]
        )
        assert answer.similarity == pytest.approx(1 - (forward + backward) / 2, abs=1e-5)
        assert answer.agreement == pytest.approx(0.8 * answer.similarity + 0.2 * answer.exact_match)
    nli.close()


async def test_a_server_with_a_bad_model_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_SCORING_NLI_MODEL", str(tmp_path / "nothing"))
    with pytest.raises(RoleUnavailable, match="BURNISH_SCORING_NLI_MODEL"):
        async with running(server_settings(tmp_path), partial(create_engine, "fake")):
            pass


async def test_a_call_that_is_gone_keeps_no_other_waiting(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = NliModel(model, batch_size=1)
    begun, batches = asyncio.Event(), []
    loop, forward = asyncio.get_running_loop(), found._model.forward

    def slow(*arguments: object, **more: object) -> object:
        batches.append(1)
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.05)
        return forward(*arguments, **more)

    monkeypatch.setattr(found._model, "forward", slow)
    call = asyncio.ensure_future(found.contradictions([("the sky", "the sea")] * 100))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(await found.contradictions([("the sky", "the sea")])) == 1
    assert len(batches) < 10
    found.close()
