"""What a model is: where uris point, what makes two directories the same model, what is missing from a bad one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from burnish_services.engine.base import ModelLoadError, ModelMismatch, ModelNotFound
from burnish_services.engine.model_digests import model_digest, model_digests
from burnish_services.engine.model_shapes import (
    built_in_of,
    check_same_built_in,
    check_same_shape,
    check_same_tensors,
    shape_of,
    tensors_of,
)
from burnish_services.engine.models import check_model_directory, copy_all_but_weights, resolve_uri

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def write_model(path: Path, weights: Mapping[str, np.ndarray] = WEIGHTS, shards: int = 1, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4, **config}))
    (path / "tokenizer.json").write_text("{}")
    names = sorted(weights)
    for shard in range(shards):
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, path / f"model-{shard}.safetensors", metadata={"format": f"np{shards}"})
    return path


def test_the_same_content_has_the_same_digest_however_it_is_split(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole")
    split = write_model(tmp_path / "split", shards=2)
    digest = model_digest(whole)
    assert digest == model_digest(split)
    assert digest.startswith("sha256:")
    assert len(digest) == 7 + 64
    (whole / "burnish.json").write_text("{}")  # says something about the model, is not part of it
    (whole / "README.md").write_text("hello")
    assert model_digest(whole) == digest


def test_weights_and_everything_else_that_matters_change_the_digest(tmp_path: Path) -> None:
    digests = model_digests(write_model(tmp_path / "first"))
    changed = {"a": WEIGHTS["a"].copy(), "b": WEIGHTS["b"]}
    changed["a"][0, 0] = 1e-7
    other_weights = model_digests(write_model(tmp_path / "weights", changed))
    assert other_weights.model != digests.model
    assert other_weights.weights != digests.weights
    other_config = model_digests(write_model(tmp_path / "config", rope_theta=5.0))
    assert other_config.model != digests.model
    assert other_config.weights == digests.weights
    swapped = {"b": WEIGHTS["a"], "a": WEIGHTS["b"]}
    reshaped = {"a": WEIGHTS["a"].reshape(3, 2), "b": WEIGHTS["b"]}
    found = {model_digest(write_model(tmp_path / name, w)) for name, w in (("s", swapped), ("r", reshaped))}
    assert len(found | {digests.model}) == 3


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "special_tokens_map.json"])
def test_files_that_change_tokens_or_where_generation_stops_count(tmp_path: Path, name: str) -> None:
    path = write_model(tmp_path / "model")
    before = model_digest(path)
    (path / name).write_text("{}")
    assert model_digest(path) != before


def test_a_digest_is_computed_anew_once_a_file_changes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    before = model_digest(path)
    config = path / "config.json"
    stat = config.stat()
    config.write_text(config.read_text().replace("llama", "gemma"))  # same size
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert model_digest(path) != before


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    file = path / "model-0.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ModelLoadError, match=r"model-0.safetensors is cut off"):
        model_digest(path)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelLoadError, match="not a readable safetensors"):
        model_digest(path)


def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no model"):
        model_digest(tmp_path)


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "my model")
    monkeypatch.chdir(tmp_path)
    for uri in (str(path), path.as_uri(), "my model", f"file://localhost{path}".replace(" ", "%20")):
        assert resolve_uri(uri) == path.resolve()


@pytest.mark.parametrize("uri", ["", "/no/such/place", "s3://bucket/model", "file://elsewhere/model", "file:///gone"])
def test_uris_that_name_nothing_here(uri: str) -> None:
    with pytest.raises(ModelNotFound, match="expected"):
        resolve_uri(uri)


def test_what_is_missing_from_a_directory_is_listed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    check_model_directory(path)
    index = {"weight_map": {"a": "model-0.safetensors", "b": "model-7.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"tokenizer.json, model-7.safetensors not found"):
        check_model_directory(path)


def test_weights_that_one_engine_would_add_and_another_not_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"a whole model and an adapter_config\.json beside it"):
        check_model_directory(path)
    into = tmp_path / "trained"
    into.mkdir()
    copy_all_but_weights(path, into)
    assert sorted(file.name for file in into.iterdir()) == ["config.json", "tokenizer.json"]
    named = write_model(tmp_path / "named", transformers_weights="adapter_model.bin")
    with pytest.raises(ModelLoadError, match=r"transformers_weights: 'adapter_model\.bin'"):
        check_model_directory(named)


def test_weights_of_another_shape_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    held = write_model(tmp_path / "held")
    check_same_shape(shape_of(held), write_model(tmp_path / "same", rope_theta=3.0))
    with pytest.raises(ModelMismatch, match="hidden_size is 8, expected 4"):
        check_same_shape(shape_of(held), write_model(tmp_path / "other", hidden_size=8))


def test_files_with_other_tensors_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    of_two = {"num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True}
    whole = {f"model.layers.{layer}.w.weight": np.zeros((4, 3), np.float32) for layer in range(2)}
    whole["model.norm.weight"] = np.zeros(4, np.float32)
    held = tensors_of(write_model(tmp_path / "held", whole, **of_two))
    # In other words, with a layer that guesses ahead, a tower for pictures, and a head that is tied anyway.
    more = {
        "lm_head.weight": np.zeros((9, 4), np.float32),
        "model.layers.0.rotary_emb.inv_freq": np.zeros(2, np.float32),
        "model.layers.2.w.weight": np.zeros((4, 3), np.float32),
        "visual.blocks.0.w.weight": np.zeros((5, 5), np.float32),
    }
    renamed = {name.replace("model.", "model.language_model.", 1): array for name, array in whole.items()}
    large = write_model(tmp_path / "large", renamed | more, shards=2, **of_two)
    check_same_tensors(held, large)
    check_same_tensors(tensors_of(large), tmp_path / "held")
    torn = {name: array for name, array in whole.items() if "layers.1" not in name}
    biased = {**whole, "model.layers.0.w.bias": np.zeros(3, np.float32)}
    cases = {
        "torn": (torn, r": layers\.1\.w\.weight is lacking\."),
        "wide": ({**whole, "model.norm.weight": np.zeros(5, np.float32)}, r"norm\.weight is \[5\], expected \[4\]"),
        "biased": (biased, r"layers\.0\.w\.bias has no place"),
    }
    for name, (weights, said) in cases.items():
        with pytest.raises(ModelMismatch, match=said):
            check_same_tensors(held, write_model(tmp_path / name, weights, **of_two))
    with pytest.raises(ModelMismatch, match=r"layers\.0\.w\.bias is lacking"):
        check_same_tensors(tensors_of(tmp_path / "biased"), tmp_path / "held")
    (tmp_path / "torn/burnish.json").write_text("{}")
    check_same_tensors(held, tmp_path / "torn")  # what training published is as whole as its base
    untied = of_two | {"tie_word_embeddings": False}
    with pytest.raises(ModelMismatch, match=r": lm_head\.weight is lacking"):
        check_same_tensors(tensors_of(large), write_model(tmp_path / "headless", whole, **untied))


def test_files_that_the_index_does_not_name_are_no_part_of_a_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", {"model.norm.weight": np.zeros(4, np.float32)})
    save_file({"norm.weight": np.zeros(5, np.float32)}, path / "consolidated.safetensors")
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-0.safetensors"}})
    )
    assert tensors_of(path) == {"norm.weight": (4,)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"rope_theta": 1e6}, {}),
        (
            {"rope_theta": 1e6, "rope_scaling": None},
            {"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}},
        ),
        (
            {"use_sliding_window": False, "sliding_window": 32768},
            {"use_sliding_window": False, "sliding_window": 131072},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "type": "yarn", "factor": 4.0}},
        ),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [1.5]}},
            {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.5], "partial_rotary_factor": 1.0}},
        ),
    ],
)
def test_models_that_compute_alike_are_taken(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = write_model(tmp_path / "one", **one), write_model(tmp_path / "other", **other)
    check_same_built_in(built_in_of(first), second)
    check_same_built_in(built_in_of(second), first)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"rope_theta": 1e6}, {"rope_theta": 10000}, r"rope_theta is 10000, expected 1000000\.0"),
        ({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 5e5}}, r"rope_theta is 500000\.0"),
        ({}, {"rope_scaling": {"type": "yarn", "factor": 4}}, "rope type is 'yarn', expected 'default'"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2}},
            {"text_config": {"rope_parameters": {"rope_type": "yarn", "factor": 4}}},
            "rope factor is 4, expected 2",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope full_attention rope_theta",
        ),
        ({"rms_norm_eps": 1e-6}, {"text_config": {"rms_norm_eps": 1e-5}}, "rms_norm_eps is 1e-05, expected 1e-06"),
    ],
)
def test_a_model_that_computes_otherwise_is_refused(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], said: str
) -> None:
    held = built_in_of(write_model(tmp_path / "held", **one))
    with pytest.raises(ModelMismatch, match=said):
        check_same_built_in(held, write_model(tmp_path / "other", **other))
