"""Files whose readers broke, or took their process along, instead of saying what is wrong; most found by a fuzzer."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pyarrow as pa
import pytest

from burnish._errors import SettingsError
from burnish._settings import load_settings
from burnish.coordinator import formats
from burnish.coordinator.errors import DataError
from burnish.coordinator.truth import _from_file
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.fake import FakeTokenizer
from burnish_services.engine.model_digests import model_digests
from burnish_services.engine.models import check_model_directory
from burnish_services.runtime.tokens import read_tokens
from burnish_services.training.data import read_data
from burnish_services.training.pool import read_pool
from burnish_services.training.state import RunError

DEEP = "[" * 50_000
LONG = "9" * 5000  # digits; Python takes 4300
ROW = {"instruction": "What?", "output": "That."}


@pytest.mark.parametrize(("value", "reason"), [(DEEP, "nested too deep"), (LONG, "too many digits")])
@pytest.mark.parametrize(
    ("name", "form"), [("data.jsonl", "{}\n"), ("data.json", "[{}]"), ("data.json", '[{{"a": {}}}]')]
)
def test_json_that_python_does_not_take(tmp_path: Path, name: str, form: str, value: str, reason: str) -> None:
    (tmp_path / name).write_text(form.format(value))
    with pytest.raises(DataError, match=reason) as refused:
        formats.load(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "expected" in str(refused.value)


def test_turns_in_a_cell_that_are_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(f'messages\n"{DEEP}"\n')
    with pytest.raises(DataError, match=r"row 1.*nested too deep"):
        formats.load(tmp_path / "data.csv")


def test_ids_with_half_of_a_surrogate_pair_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({**ROW, "id": "\ud800"}) + "\n")
    loaded = formats.load(tmp_path / "data.jsonl")
    assert [sample.id for sample in loaded.samples] == ["row-000001"]
    assert "is not all text of" in loaded.warnings[0]


def test_names_of_columns_without_end_are_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"x" * 100_000: 1}) + "\n")
    with pytest.raises(DataError) as refused:
        formats.load(tmp_path / "data.jsonl")
    assert len(str(refused.value)) < 2000


def test_an_arrow_file_whose_texts_lie_outside_of_it(tmp_path: Path) -> None:
    table = pa.table({"instruction": ["aaaa"] * 3, "output": ["bbbb"] * 3})
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = (tmp_path / "data.arrow").read_bytes()
    ends = struct.pack("<4i", 0, 4, 8, 12)
    assert content.count(ends) == 2
    (tmp_path / "data.arrow").write_bytes(content.replace(ends, struct.pack("<4i", 0, 4, 2**30, 2**31 - 1)))
    with pytest.raises(DataError, match=r"data\.arrow: cannot be read as arrow"):
        formats.load(tmp_path / "data.arrow")


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", '{"_data_files": 7, "splits": {}}', '{"_data_files": [7], "splits": [7]}', DEEP],
)
def test_a_saved_data_set_that_does_not_say_what_is_in_it(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"expected|name the one"):
        formats.find_files(tmp_path)


def test_a_truth_that_is_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text(DEEP)
    with pytest.raises(DataError, match=r"truth\.jsonl, line 1: expected"):
        _from_file(tmp_path / "truth.jsonl")


@pytest.mark.parametrize("content", [b"tls = \xff", f"tls = {DEEP}".encode(), f"tls = {LONG}".encode()])
def test_settings_and_tokens_that_are_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"x\.toml is not valid TOML"):
        load_settings(config=path)
    with pytest.raises(ValueError, match=r"x\.toml is not valid TOML"):
        read_tokens(path)


@pytest.mark.parametrize("row", [DEEP, f'{{"weight": {"9" * 400}, "messages": []}}'])
def test_training_data_that_python_does_not_take(tmp_path: Path, row: str) -> None:
    (tmp_path / "data.jsonl").write_text(row + "\n")
    with pytest.raises(RunError, match=r"none of the 1 samples.*NOT_A_SAMPLE"):
        read_data(tmp_path / "data.jsonl", FakeTokenizer(), 64)


@pytest.mark.parametrize(
    ("ids", "logprobs"),
    [
        ("[5, 6]", "[[], -1]"),
        ("[5, 6]", "[-1, null]"),
        ("[5]", f"[-{'9' * 400}]"),
        ("[5]", "[NaN]"),
        ("[null]", "[-1]"),
        ("[-5]", "[-1]"),
        ("[1e3]", "[-1]"),
        (f"[{'9' * 400}]", "[-1]"),
    ],
)
def test_responses_of_a_pool_that_are_no_tokens(tmp_path: Path, ids: str, logprobs: str) -> None:
    response = f'{{"token_ids": {ids}, "logprobs": {logprobs}}}'
    messages = '[{"role": "user", "content": "What?"}]'
    (tmp_path / "pool.jsonl").write_text(f'{{"id": "a", "messages": {messages}, "responses": [{response}]}}\n')
    assert len(read_pool(tmp_path / "pool.jsonl", FakeTokenizer(), 64, ["a"])) == 0


def test_a_response_of_a_pool_that_is_too_long_costs_no_other(tmp_path: Path) -> None:
    responses = [{"token_ids": [5] * 100, "logprobs": [-1.0] * 100}, {"token_ids": [5, 6], "logprobs": [-1.0, -1.0]}]
    line = {"id": "a", "messages": [{"role": "user", "content": "What?"}], "responses": responses}
    (tmp_path / "pool.jsonl").write_text(json.dumps(line) + "\n")
    pool = read_pool(tmp_path / "pool.jsonl", FakeTokenizer(), 64, ["a"])
    (taken,) = pool.responses[0]
    assert len(taken.generator) == 2


@pytest.mark.parametrize("index", ["[]", '{"weight_map": 7}', '{"weight_map": {"a": 7}}', f'{{"a": {DEEP}'])
def test_an_index_of_weights_that_is_none(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelLoadError, match=r"index\.json"):
        check_model_directory(tmp_path)


def test_an_index_that_names_files_that_none_can_be(tmp_path: Path) -> None:
    weights = {"a": "x" * 5000, "b": "a\x00b"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ModelLoadError, match="not found"):
        check_model_directory(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "deeper/model.safetensors"])
def test_an_index_that_names_files_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelLoadError, match="expected names of files beside it"):
        check_model_directory(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        DEEP,
        '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        f'{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [{2**70}, {2**71}]}}}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-900, 4]}}',
    ],
)
def test_weights_whose_header_makes_no_sense(tmp_path: Path, entry: str) -> None:
    header = entry.encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        model_digests(tmp_path)
