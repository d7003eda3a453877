"""Everything that reads files which others made: how to call it, valid files to begin from, and what it may raise."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from burnish._errors import BurnishError
from burnish._settings import load_settings
from burnish.coordinator import formats
from burnish.coordinator.truth import _from_file
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.fake import FakeTokenizer, read_fake_model
from burnish_services.engine.model_digests import _compute_digests
from burnish_services.engine.model_shapes import shape_of
from burnish_services.engine.models import check_model_directory
from burnish_services.runtime.tokens import read_tokens
from burnish_services.training.data import read_data
from burnish_services.training.pool import read_pool
from burnish_services.training.state import RunError

_LONGEST = 60_000  # characters of a refusal: values that it repeats have up to 20,000, and it may name twenty rows
_ALPACA = [
    {"instruction": f"What is {n}?", "input": "", "output": f"It is {n}.", "id": n, "note": None} for n in range(5)
]
_CHAT = [
    {"id": f"r{n}", "messages": [{"role": "user", "content": f"é{n}"}, {"role": "assistant", "content": "日本 𝒳"}]}
    for n in range(5)
]
_SHAREGPT = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}] * 3
_POOL = [
    {"id": "r1", "messages": _CHAT[1]["messages"][:1], "responses": [{"token_ids": [5, 6], "logprobs": [-1, -2.5]}]}
]  # type: ignore[index]
_TRUTH = [{"id": f"r{n}", "flaw": "wrong", "response": "right"} for n in range(3)]


@dataclass(frozen=True)
class Reader:
    """`read` takes a file of this name, and may raise nothing but `refusals`. `beside` are files that belong to it,
    by their names."""

    name: str
    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...]
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def prepare(self, folder: Path) -> Path:
        """Puts what stands beside the file into a new folder; returns where the file goes."""
        for name, content in self.beside.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / self.file

    def check(self, path: Path, content: bytes) -> bool:
        """Reads a file with this content; True where that is taken. Raises AssertionError for a refusal that does not
        name the file, and whatever else reading raises."""
        path.write_bytes(content)
        try:
            self.read(path)
        except self.refusals as refusal:
            said = str(refusal)
            assert path.name in said or str(path.parent) in said, f"{self.name}: names no file: {said[:500]!r}"
            assert len(said) < _LONGEST, f"{self.name}: {len(said)} characters: {said[:500]!r}"
            return False
        return True


def _load(path: Path) -> object:
    skipped = formats.load(path, skip_bad_rows=True)
    return [formats.rewritten_record(s.messages, skipped.info.layout, skipped.info.columns, r, keep_unknown=True)
            for s, r in zip(skipped.samples, skipped.records, strict=True)]  # fmt: skip


def _load_folder(path: Path) -> object:
    return _load(path.parent)


def _training_data(path: Path) -> object:
    return read_data(path, FakeTokenizer(), 64)


def _lines(rows: Sequence[object]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv() -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_ALPACA[0]))
    writer.writeheader()
    writer.writerows(_ALPACA)
    return text.getvalue().encode()


def _parquet(**how: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_ALPACA), sink, **how)
    return sink.getvalue()


def _arrow(stream: bool) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(_CHAT)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _safetensors() -> bytes:
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"x": "y"}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


_CONFIG = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 320}'
_INDEX = b'{"weight_map": {"a": "model.safetensors"}}'
_ADAPTER = b'{"base_model_name_or_path": "/no/such/base", "peft_type": "LORA", "r": 4}'
_FAKE = b'{"name": "a", "seed": 1, "skill": 0.5, "fault": "", "latency_seconds": 0}'
_STATE = b'{"_data_files": [{"filename": "data.arrow"}]}'
_SETTINGS = b'scoring_endpoint = "localhost:1"\ntls = true\nengine = "fake"\n'
_TOKENS = f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["all"]\n'.encode()
_DATA = (BurnishError,)
_MODEL = (ModelLoadError,)

READERS = [
    Reader("json", "data.json", [json.dumps(_ALPACA).encode(), json.dumps(_SHAREGPT, indent=1).encode()], _load, _DATA),
    Reader("jsonl", "data.jsonl", [_lines(_CHAT), _lines(_ALPACA), b"\xef\xbb\xbf" + _lines(_SHAREGPT)], _load, _DATA),
    Reader("csv", "data.csv", [_csv()], _load, _DATA),
    Reader("parquet", "data.parquet", [_parquet(), _parquet(compression="NONE", use_dictionary=False)], _load, _DATA),
    Reader("arrow", "data.arrow", [_arrow(True), _arrow(False)], _load, _DATA),
    Reader("saved data set", "state.json", [_STATE], _load_folder, _DATA, {"data.arrow": _arrow(True)}),
    Reader("splits", "dataset_dict.json", [b'{"splits": ["train"]}', b'{"splits": ["a", "b"]}'], _load_folder, _DATA,
           {"train/state.json": _STATE, "train/data.arrow": _arrow(True)}),
    Reader("truth", "truth.jsonl", [_lines(_TRUTH)], _from_file, _DATA),
    Reader("settings", "burnish.toml", [_SETTINGS], lambda path: load_settings(config=path), _DATA),
    Reader("tokens", "tokens.toml", [_TOKENS], read_tokens, (ValueError,)),
    Reader("training data", "train.jsonl", [_lines(_CHAT)], _training_data, (RunError,)),
    Reader("pool", "pool.jsonl", [_lines(_POOL)], lambda path: read_pool(path, FakeTokenizer(), 64, ["r1"]), ()),
    Reader("weights", "model.safetensors", [_safetensors()], lambda path: _compute_digests(path.parent), _MODEL),
    Reader("configuration", "config.json", [_CONFIG], lambda path: shape_of(path.parent), _MODEL),
    Reader("adapter", "adapter_config.json", [_ADAPTER], lambda path: _compute_digests(path.parent), _MODEL,
           {"adapter_model.safetensors": _safetensors()}),
    Reader("index", "model.safetensors.index.json", [_INDEX], lambda path: check_model_directory(path.parent), _MODEL,
           {"config.json": _CONFIG, "model.safetensors": _safetensors(), "tokenizer.json": b"{}"}),
    Reader("fake model", "fake_model.json", [_FAKE], lambda path: read_fake_model(path.parent), _MODEL),
]  # fmt: skip
