"""Model directories: where a uri points, what must be in it, and the digest of its content.

Owns the meaning of "the same model": two directories whose weights (tensor by tensor, however they are split into
files), configuration, tokenizer and chat template are the same have the same digest. Loads nothing; which model is
served is `hosting.py`'s business.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from burnish_services.engine.base import ModelLoadError, ModelMismatch, ModelNotAllowed, ModelNotFound
from burnish_services.engine.places import NotLocal, OutsideRoots, Roots, local_path

FAKE_MODEL_FILE = "fake_model.json"
CARD_FILE = "burnish.json"  # what the training service states about a model; not part of its content

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
ADAPTER_FILE = "adapter_config.json"
INDEX_FILE = "model.safetensors.index.json"
_ADAPTER_BASE = "base_model_name_or_path"
# Weights in any format; all else in a model's directory belongs to models that are trained from it, too.
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_MAX_COPIED_BYTES = 1 << 28
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
# What must agree for one model's weights to fit into another's memory.
_SHAPE_KEYS = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "num_experts", "num_local_experts",
)  # fmt: skip
# What, beside the weights, an engine may build in once; where both of two models say it, they must say the same.
_BUILT_IN = (
    "rope_theta", "partial_rotary_factor", "rms_norm_eps", "layer_norm_eps", "norm_eps", "hidden_act",
    "hidden_activation", "sliding_window", "use_sliding_window", "layer_types", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping",
)  # fmt: skip
# Rotary positions that are called otherwise elsewhere.
_SAME_ROPE = {"su": "longrope", "mrope": "default"}
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


def resolve_uri(uri: str, roots: Roots | None = None) -> Path:
    """The directory that a path or `file://` URI names, absolute, for who may name what is in `roots` (None: anything).
    Raises ModelNotFound for anything else, ModelNotAllowed for what is elsewhere."""
    try:
        path = (roots or Roots()).check_readable_model(local_path(uri))
        found = path.is_dir()
    except OutsideRoots as error:
        raise ModelNotAllowed(f"model {error}") from None
    except NotLocal as error:
        raise ModelNotFound(f"model {error}") from None
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        reason = getattr(error, "strerror", None) or error
        raise ModelNotFound(
            f"model {uri!r} cannot be looked at: {reason}; expected a directory that this server can read"
        ) from None
    if not found:
        raise ModelNotFound(
            f"no model directory at {uri!r}; expected a directory in the Hugging Face layout that this server can read"
        )
    return path


def adapter_base(path: Path, roots: Roots | None = None) -> Path | None:
    """The base model, in `roots`, of a low-rank adapter's directory; None where `path` holds a whole model. Raises
    ModelNotFound where the base is not where the adapter says, ModelNotAllowed, ModelLoadError."""
    named = adapter_base_name(path)
    if named is None:
        return None
    try:
        base = resolve_uri(named, roots)
    except ModelNotFound as error:
        raise ModelNotFound(f"the base model of the adapter in {path}: {error}") from None
    if _is_adapter(base):  # perhaps itself
        raise ModelLoadError(f"the base model of the adapter in {path} is an adapter; expected a whole model")
    return base


def adapter_base_name(path: Path) -> str | None:
    """What a low-rank adapter's directory calls its base model; None where `path` holds a whole model. Raises
    ModelLoadError."""
    if not _is_adapter(path):
        return None
    named = read_json(path / ADAPTER_FILE).get(_ADAPTER_BASE)
    if not isinstance(named, str):
        raise ModelLoadError(f"{path / ADAPTER_FILE} names no {_ADAPTER_BASE}; expected the base model's directory")
    return named


def write_adapter_base(path: Path, base: str) -> None:
    """Has the adapter in a directory call its base model that, which changes nothing in its digest. Raises
    ModelLoadError, OSError."""
    named = read_json(path / ADAPTER_FILE) | {_ADAPTER_BASE: base}
    (path / ADAPTER_FILE).write_text(json.dumps(named, indent=2, sort_keys=True), encoding="utf-8")


def _is_adapter(path: Path) -> bool:
    return (path / ADAPTER_FILE).is_file() and not (path / "config.json").is_file()


def copy_all_but_weights(base: Path, into: Path) -> None:
    """Copies configuration, tokenizer, chat template and licence byte for byte, so that an engine that holds the
    base model can take the new weights in place. Raises OSError."""
    for path in sorted(base.iterdir()):
        apart = path.name.endswith(_WEIGHT_SUFFIXES) or path.name in (CARD_FILE, ADAPTER_FILE)
        if path.is_file() and not apart and path.stat().st_size <= _MAX_COPIED_BYTES:
            shutil.copyfile(path, into / path.name)


def stored_format(path: Path) -> str:
    """What most of a model's weights are stored as, in safetensors' words, such as `BF16`. Raises ModelLoadError."""
    sizes: dict[str, int] = {}
    for file in sorted(path.glob("*.safetensors")):
        for tensor in _header(file).values():
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    if not sizes:
        raise ModelLoadError(f"{path} holds no *.safetensors")
    return max(sizes, key=lambda name: sizes[name])


def check_model_directory(path: Path) -> None:
    """Raises ModelLoadError naming what is missing for a Hugging Face model: configuration, weights, tokenizer."""
    if adapter_base(path) is not None:
        raise ModelLoadError(
            f"{path} is a low-rank adapter, where a whole model was expected: start from its base model, and name the"
            " adapter in requests; or publish it merged"
        )
    _check_weights_named(path)
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json")
    if not any(path.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("tokenizer.json")
    index = path / INDEX_FILE
    if index.is_file():
        missing += sorted(shard for shard in _shards(index) if not is_file_of(path, shard))
    if missing:
        raise ModelLoadError(f"{path} is not a complete model directory: {', '.join(missing)} not found")


def _check_weights_named(path: Path) -> None:
    """Raises ModelLoadError where transformers would load other weights than those that a digest is made of."""
    config = path / "config.json"
    if (path / ADAPTER_FILE).is_file():
        raise ModelLoadError(
            f"{path} holds a whole model and an {ADAPTER_FILE} beside it, which some engines would add to it and others"
            " not; expected one of the two: move the adapter to a directory of its own, or away where it is merged"
        )
    named = read_json(config).get("transformers_weights") if config.is_file() else None
    if named is not None:
        raise ModelLoadError(
            f"{config} names its weights itself (transformers_weights: {str(named)[:100]!r}); expected *.safetensors"
            f" under their usual names, or an {INDEX_FILE}"
        )


def check_shards(path: Path, present: Collection[str], named: str) -> None:
    """Raises ModelLoadError where the index of weights in `path` names files that are not `present` at the place
    `named`."""
    missing = sorted(_shards(path / INDEX_FILE) - set(present))
    if missing:
        raise ModelLoadError(f"{named} is not a complete model: {', '.join(missing[:8])} not found")


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names. Raises ModelLoadError."""
    named = read_json(index).get("weight_map", {})
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ModelLoadError(f"{index} has no weight_map that is fit; expected names of tensors, each with a file's")
    elsewhere = sorted(name for name in set(named.values()) if Path(name).name != name)
    if elsewhere:
        raise ModelLoadError(f"{index} names {elsewhere[0][:200]!r}; expected names of files beside it")
    return set(named.values())


def is_file_of(directory: Path, name: str) -> bool:
    """Whether a name, which may be anything, is that of a file there."""
    try:
        return (directory / name).is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def shape_of(directory: Path) -> dict[str, Any]:
    """What a model's configuration says of its weights' shapes. Raises ModelLoadError where it cannot be read."""
    config = read_json(directory / "config.json")
    return {key: config.get(key) for key in _SHAPE_KEYS}


def check_same_shape(held: Mapping[str, Any], wanted: Path) -> None:
    """Raises ModelMismatch where the weights in `wanted` have another shape than those that are held, whose own
    directory may be gone by now."""
    new = shape_of(wanted)
    differences = [f"{key} is {new[key]!r}, expected {value!r}" for key, value in held.items() if value != new[key]]
    if differences:
        raise ModelMismatch(
            f"weights in {wanted} do not fit the running engine: {'; '.join(differences)}. "
            "Start another server for this architecture"
        )


def built_in_of(directory: Path) -> dict[str, Any]:
    """What a model's configuration says of how it computes, beside its weights, as far as it says anything. Raises
    ModelLoadError where it cannot be read."""
    config = read_json(directory / "config.json")
    inner = config.get("text_config")
    text = config | inner if isinstance(inner, dict) else config
    found = {key: text[key] for key in _BUILT_IN if text.get(key) is not None}
    if found.get("use_sliding_window") is False:
        found.pop("sliding_window", None)
    told = text.get("rope_parameters") or text.get("rope_scaling")
    return found | _rope_of(told if isinstance(told, dict) else {})


def _rope_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of rotary positions, in transformers' older way or in that of its version 5; by type of
    layer, where layers have their own."""
    if any(isinstance(one, dict) for one in told.values()):
        layers = {layer: one for layer, one in told.items() if isinstance(one, dict)}
        return {f"rope {layer} {key}": one[key] for layer, one in layers.items() for key in one if key != "type"}
    kind = told.get("rope_type") or told.get("type") or "default"
    apart = ("rope_theta", "partial_rotary_factor")  # which stand outside in the older way
    named = {key: value for key, value in told.items() if value is not None and key not in ("type", "rope_type")}
    return {"rope type": _SAME_ROPE.get(kind, kind)} | {
        key if key in apart else f"rope {key}": value for key, value in named.items()
    }


def check_same_built_in(held: Mapping[str, Any], wanted: Path) -> None:
    """Raises ModelMismatch where the model in `wanted` computes otherwise than an engine that has `held` built in."""
    new = built_in_of(wanted)
    both = sorted(held.keys() & new.keys())
    differences = [f"{key} is {new[key]!r}, expected {held[key]!r}" for key in both if held[key] != new[key]]
    if differences:
        raise ModelMismatch(
            f"the model in {wanted} computes otherwise than the running engine, which changes weights alone:"
            f" {'; '.join(differences)}. Start another server for this model"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory. Raises ModelLoadError where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


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
    how = {key: value for key, value in read_json(path / ADAPTER_FILE).items() if key != _ADAPTER_BASE}
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
