"""Small parts of the engines: settings, refusals, sampling, the environment vLLM inherits, the factory."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from burnish_services.engine.base import EngineFailure, EngineSettings, ModelLoadError, Sampling
from burnish_services.engine.factory import EngineUnavailable, create_engine
from burnish_services.engine.failures import checked, refused
from burnish_services.engine.model_config import (
    cache_bytes_per_token,
    model_context,
    read_text_config,
    short_factors_context,
)
from burnish_services.engine.sampling import choose_token, new_generator
from burnish_services.engine.settings import context_length, parse_cores
from burnish_services.engine.vllm_engine import environment


def test_core_lists() -> None:
    assert parse_cores("0-1") == (0, 1)
    assert parse_cores("7, 2-4,2") == (2, 3, 4, 7)
    for bad in ("", "a", "3-1", "1-", "-1", "0|1"):
        with pytest.raises(ValueError, match="not a list of cores"):
            parse_cores(bad)


def test_context_lengths() -> None:
    assert context_length(None, 8192) == 8192
    assert context_length(1024, 8192) == 1024
    for bad in (0, 1, 8193):
        with pytest.raises(ModelLoadError, match="expected 2 to 8192"):
            context_length(bad, 8192)


def test_sizes_read_from_a_configuration(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30,
        "max_position_embeddings": 8192, "dtype": "bfloat16",
    }  # fmt: skip
    config = _read(tmp_path, {"model_type": "llama", **shape})
    assert model_context(config) == 8192
    assert cache_bytes_per_token(config, "auto") == 2 * 30 * 3 * 64 * 2
    assert cache_bytes_per_token(config, "float32") == 2 * 30 * 3 * 64 * 4


def test_a_context_that_is_stated_elsewhere_or_in_other_words(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "num_hidden_layers": 3, "max_position_embeddings": 512}  # fmt: skip
    inside = _read(tmp_path, {"model_type": "gemma3", "text_config": text, "dtype": "bfloat16"})
    assert (model_context(inside), cache_bytes_per_token(inside, "auto")) == (512, 2 * 3 * 2 * 16 * 2)
    gpt2 = _read(tmp_path, {"model_type": "gpt2", "n_positions": 256, "n_embd": 32, "n_head": 2, "n_layer": 5})
    assert (model_context(gpt2), cache_bytes_per_token(gpt2, "float32")) == (256, 2 * 5 * 2 * 16 * 4)
    assert model_context(_read(tmp_path, {"model_type": "mpt", "max_seq_len": 4096})) == 4096
    assert model_context(_read(tmp_path, {"model_type": "bloom"})) == 2048  # it states none


@pytest.mark.parametrize(
    "stated",
    [
        {"model_type": "phi3", "original_max_position_embeddings": 128, "rope_scaling": {"type": "longrope"}},
        {"model_type": "llama", "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128}},
    ],
)  # fmt: skip
def test_longrope_holds_to_its_short_factors(stated: dict[str, Any], tmp_path: Path) -> None:
    """As training reads texts; vLLM would read all of them with the long factors beyond."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512}
    rope = next(value for key, value in stated.items() if key.startswith("rope_"))
    rope.update({name: [1.0] * 16 for name in ("short_factor", "long_factor")})
    config = _read(tmp_path, {**shape, **stated})
    assert (model_context(config), short_factors_context(config)) == (128, 128)
    of_remote_code = SimpleNamespace(max_position_embeddings=512, original_max_position_embeddings=128)
    of_remote_code.rope_scaling = {"type": "su", "factor": 4.0}
    assert model_context(of_remote_code) == 128
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}
    other = _read(tmp_path, {**shape, "model_type": "llama", "rope_parameters": yarn})
    assert (model_context(other), short_factors_context(other)) == (512, None)


def _read(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return read_text_config(folder)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([], "EMPTY"), ([1] * 11, "TOO_LONG"), ([3, 100], "BAD_TOKEN"), ([-1], "BAD_TOKEN"), ([0, 99] * 5, None)],
)
def test_sequences_that_an_engine_refuses(ids: list[int], reason: str | None) -> None:
    failure = refused(ids, limit=10, vocab_size=100)
    assert (failure.reason if failure else None) == reason


def test_values_that_are_not_finite_become_a_failure() -> None:
    good = np.array([-1.0, 0.0], np.float32)
    assert checked(good) is good
    failure = checked(np.array([-1.0, np.nan, -np.inf], np.float32))
    assert isinstance(failure, EngineFailure)
    assert failure.reason == "NOT_FINITE"
    assert "2 of 3" in failure.message


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])


def draws(sampling: Sampling, number: int = 2000, seen: tuple[int, ...] = ()) -> torch.Tensor:
    generator = new_generator(0)
    tokens = torch.tensor([choose_token(LOGITS, seen, sampling, generator) for _ in range(number)])
    return torch.bincount(tokens, minlength=5) / number


def test_draws_follow_the_distribution() -> None:
    assert torch.allclose(draws(Sampling()), LOGITS.softmax(0), atol=0.04)
    assert torch.allclose(draws(Sampling(temperature=2.0)), (LOGITS / 2).softmax(0), atol=0.04)
    assert draws(Sampling(temperature=0.0), 3)[4] == 1.0


def test_top_k_and_top_p_leave_the_likeliest_only() -> None:
    assert (draws(Sampling(top_k=2)) > 0).tolist() == [True, False, False, False, True]
    # Probabilities, falling: .636 .234 .086 .032 .012
    assert (draws(Sampling(top_p=0.6)) > 0).tolist() == [False, False, False, False, True]
    assert (draws(Sampling(top_p=0.65)) > 0).tolist() == [True, False, False, False, True]
    assert (draws(Sampling(top_p=1.0, temperature=2.0)) > 0).all()


def test_repetition_penalty_counts_each_token_once() -> None:
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert draws(greedy, 1, seen=(4,))[0] == 1.0  # 3 / 2 < 2
    assert draws(greedy, 1, seen=(4, 4, 4, 0))[4] == 1.0  # 3 / 2 > 2 / 2
    assert draws(greedy, 1, seen=(4, 0, 1))[4] == 1.0


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    def run(seed: int | None) -> list[int]:
        generator = new_generator(seed)
        return [choose_token(LOGITS, (), Sampling(), generator) for _ in range(50)]

    assert run(7) == run(7)
    assert run((1 << 64) - 1) == run((1 << 64) - 1)
    assert run(7) != run(8)
    assert run(None) != run(None)


def test_what_vllm_s_processes_inherit_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    before = dict(os.environ)
    with environment.for_children((0, 3)):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["GOMP_CPU_AFFINITY"] == "0 3"
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0,3"
        os.environ["LD_PRELOAD"] = "libgomp.so"  # as vLLM does
    assert dict(os.environ) == before


def test_processes_that_share_a_model_share_the_cores() -> None:
    with environment.for_children((0, 1, 4, 5), 2):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|4,5"


def test_cores_are_the_operator_s_choice_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 0}, raising=False)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    assert environment.bound_cores("2-3") == (2, 3)
    assert environment.bound_cores(None) == (0, 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert environment.bound_cores(None) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    assert environment.bound_cores(None) is None


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EngineSettings("/no/model")
    assert create_engine("fake", settings).name.startswith("fake/")
    with pytest.raises(ValueError, match="unknown engine 'tgi'; expected one of vllm, transformers, fake"):
        create_engine("tgi", settings)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"burnish\[cpu\] or burnish\[gpu\]"):
        create_engine("vllm", settings)


def test_an_engine_that_is_not_started_says_so() -> None:
    for kind in ("vllm", "transformers", "fake"):
        with pytest.raises(RuntimeError, match="not started"):
            _ = create_engine(kind, EngineSettings("/no/model")).model


def test_vllms_own_tracing_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    monkeypatch.setenv(name, "http://collector:4317")
    with environment.for_children(None):
        assert name not in os.environ
    assert os.environ[name] == "http://collector:4317"


def test_the_coldest_temperatures_take_the_likeliest_token() -> None:
    assert choose_token(torch.tensor([1.0, 2.0]), [], Sampling(temperature=1e-40), new_generator(1)) == 1
