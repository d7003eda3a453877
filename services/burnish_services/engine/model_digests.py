"""Digests of models' content: which directories hold the same model.

Two directories whose weights (tensor by tensor, however they are split into files), configuration, tokenizer and chat
template are the same have the same digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.models import (
    ADAPTER_BASE,
    ADAPTER_FILE,
    FAKE_MODEL_FILE,
    adapter_base,
    read_json,
    shards_of,
)

# Everything that can change a token, a logit or where generation stops.
_CONTENT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    FAKE_MODEL_FILE,
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_CHUNK = 1 << 24
_FILES_AT_A_TIME = 4
# What taking JSON apart raises that is not as it should be.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class ModelDigests:
    """Digests of a model's content, each `sha256:` and 64 hexadecimal digits."""

    model: str  # weights, configuration, tokenizer, chat template: what requests name
    weights: str  # the tensors alone


class _Tensor(TypedDict):
    """An entry of a safetensors header; offsets in bytes, from the header's end."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_Stamp = tuple[tuple[str, int, int], ...]
_digests: dict[tuple[Path, _Stamp], ModelDigests] = {}
_lock = threading.Lock()


def model_digest(path: Path) -> str:
    """`model_digests(path).model`."""
    return model_digests(path).model


def model_digests(path: Path) -> ModelDigests:
    """Digests of the model in a directory; about 1 s per gigabyte and core, of four at most, then remembered by names,
    sizes and times of its files. Blocking: call it off the event loop. Raises ModelLoadError."""
    known = remembered_digests(path)
    if known is not None:
        return known
    try:
        key = (path, _stamp(path))
        digests = _compute_digests(path)
        if _stamp(path) != key[1]:
            raise ModelLoadError(f"{path} changed while it was read; publish models by renaming a finished directory")
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    with _lock:
        _digests[key] = digests
    return digests


def remembered_digests(path: Path) -> ModelDigests | None:
    """As `model_digests`, where they were read before and the files are still the same; looks at no content. Raises
    ModelLoadError."""
    try:
        key = (path, _stamp(path))
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    with _lock:
        return _digests.get(key)


def note_moved(before: Path, after: Path) -> None:
    """Has the digests of a model that was renamed be remembered under its new name, too."""
    with _lock:
        known = [(stamp, digests) for (path, stamp), digests in _digests.items() if path == before]
        _digests.update({(after, stamp): digests for stamp, digests in known})


def stored_format(path: Path) -> str:
    """What most of a model's weights are stored as, in safetensors' words, such as `BF16`. Raises ModelLoadError."""
    sizes: dict[str, int] = {}
    for file in sorted(path.glob("*.safetensors")):
        for tensor in _header(file).values():
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    if not sizes:
        raise ModelLoadError(f"{path} holds no *.safetensors")
    return max(sizes, key=lambda name: sizes[name])


def _content_files(path: Path) -> list[Path]:
    named = [path / name for name in _CONTENT_FILES if (path / name).is_file()]
    return named + sorted(path.glob("*.safetensors"))


def _stamp(path: Path) -> _Stamp:
    base = adapter_base(path)
    files = _content_files(path) if base is None else [path / ADAPTER_FILE, *_content_files(path)]
    stats = [(file.name, file.stat()) for file in files]
    own = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return own if base is None else own + _stamp(base)


def _compute_digests(path: Path) -> ModelDigests:
    base = adapter_base(path)
    if base is not None:
        return _adapter_digests(path, model_digests(base))
    files = _content_files(path)
    if not files:
        raise ModelLoadError(f"{path} holds no model: expected config.json, *.safetensors and a tokenizer")
    tensors = _tensors([file for file in files if file.suffix == ".safetensors"])
    others: list[str] = []
    for file in files:
        if file.suffix != ".safetensors":
            line = f"file {file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            # A fake model's file is all the weights it has.
            (tensors if file.name == FAKE_MODEL_FILE else others).append(line)
    return ModelDigests(model=_digest_of(tensors + others), weights=_digest_of(tensors))


def _adapter_digests(path: Path, base: ModelDigests) -> ModelDigests:
    """Of what the adapter makes of its base, wherever that is."""
    how = {key: value for key, value in read_json(path / ADAPTER_FILE).items() if key != ADAPTER_BASE}
    lines = [f"adapter {hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()}"]
    lines += _tensors(sorted(path.glob("*.safetensors")))
    return ModelDigests(
        model=_digest_of([*lines, f"base {base.model}"]), weights=_digest_of([*lines, f"base {base.weights}"])
    )


def _digest_of(lines: list[str]) -> str:
    return "sha256:" + hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _tensors(files: Sequence[Path]) -> list[str]:
    """The lines of all tensors of some files, several files at a time: hashing holds no lock of Python's."""
    with ThreadPoolExecutor(_FILES_AT_A_TIME, "hashing") as pool:
        return [f"tensor {line}" for lines in pool.map(lambda file: list(_tensor_lines(file)), files) for line in lines]


def _tensor_lines(file: Path) -> Iterator[str]:
    """Name, type, shape and content of each tensor, so that how weights are split into files does not matter."""
    header = _header(file)
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        base = 8 + length
        for name, tensor in sorted(header.items()):
            begin, end = tensor["data_offsets"]
            digest = _range_digest(file, stream, base + begin, base + end)
            yield f"{name} {tensor['dtype']} {tensor['shape']} {digest}"


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a model's files, by name: those that its index names, where it has one. Reads their
    headers alone. Raises ModelLoadError."""
    named = shards_of(path)
    files = [file for file in sorted(path.glob("*.safetensors")) if not named or file.name in named]
    return {name: tuple(tensor["shape"]) for file in files for name, tensor in _header(file).items()}


def _header(file: Path) -> dict[str, _Tensor]:
    """What a safetensors file holds, by name. Raises ModelLoadError where it is none."""
    with file.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            return {name: _tensor(entry) for name, entry in header.items()}
        except (*_MALFORMED, struct.error, RecursionError) as error:
            raise ModelLoadError(f"{file} is not a readable safetensors file: {error}") from error


def _tensor(entry: Any) -> _Tensor:
    begin, end = entry["data_offsets"]
    shape = [int(size) for size in entry["shape"]]
    if not 0 <= begin <= end < 1 << 62:
        raise ValueError(f"a tensor lies at bytes {str(begin)[:20]} to {str(end)[:20]}")
    return {"dtype": str(entry["dtype"]), "shape": shape, "data_offsets": (int(begin), int(end))}


def _range_digest(file: Path, stream: Any, begin: int, end: int) -> str:
    hasher = hashlib.sha256()
    stream.seek(begin)
    left = end - begin
    while left > 0:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise ModelLoadError(f"{file} is cut off: {left} bytes missing")
        hasher.update(chunk)
        left -= len(chunk)
    return hasher.hexdigest()
