"""Model directories: where a uri points, what must be there, and what its files name.

Loads nothing. Which content is the same model is `model_digests.py`'s business, which models fit one engine
`model_shapes.py`'s, and which is served `hosting.py`'s.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from burnish_services.engine.base import ModelLoadError, ModelNotAllowed, ModelNotFound
from burnish_services.engine.places import NotLocal, OutsideRoots, Roots, local_path

FAKE_MODEL_FILE = "fake_model.json"
CARD_FILE = "burnish.json"  # what the training service states about a model; not part of its content
ADAPTER_FILE = "adapter_config.json"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_BASE = "base_model_name_or_path"
# Weights in any format; all else in a model's directory belongs to models that are trained from it, too.
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_MAX_COPIED_BYTES = 1 << 28
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


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
    named = read_json(path / ADAPTER_FILE).get(ADAPTER_BASE)
    if not isinstance(named, str):
        raise ModelLoadError(f"{path / ADAPTER_FILE} names no {ADAPTER_BASE}; expected the base model's directory")
    return named


def write_adapter_base(path: Path, base: str) -> None:
    """Has the adapter in a directory call its base model that, which changes nothing in its digest. Raises
    ModelLoadError, OSError."""
    named = read_json(path / ADAPTER_FILE) | {ADAPTER_BASE: base}
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


def shards_of(path: Path) -> set[str]:
    """The files that a model's index of weights names; none where it has no index. Raises ModelLoadError."""
    index = path / INDEX_FILE
    return _shards(index) if index.is_file() else set()


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory. Raises ModelLoadError where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value
