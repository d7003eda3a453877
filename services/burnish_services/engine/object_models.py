"""Models in object storage: which objects make one, whether it is whole, and fetching it. Blocking.

A model is the objects directly below a prefix. What marks one as there is written last by whoever publishes it
(`MARKS`), so that a model that is still being put there is not taken for a whole one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from burnish_services.engine.base import (
    ModelCacheFull,
    ModelDenied,
    ModelLoadError,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnreachable,
)
from burnish_services.engine.models import ADAPTER_FILE, FAKE_MODEL_FILE, INDEX_FILE, check_shards
from burnish_services.engine.object_places import (
    ObjectChanged,
    ObjectDenied,
    ObjectError,
    ObjectMalformed,
    ObjectMissing,
    ObjectPlace,
)
from burnish_services.engine.objects import ObjectEntry, download, list_objects
from burnish_services.engine.places import OutsideRoots, Roots

MARKS = ("config.json", ADAPTER_FILE, FAKE_MODEL_FILE)

_WEIGHTS = ".safetensors"
_OTHERS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_FOREIGN_INDEX = (".bin.index.json", ".h5.index.json", ".msgpack.index.json")
_MAX_FILES = 2000
_MAX_OTHER_BYTES = 2**28  # of a file that is not weights


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The objects of a model as they were listed."""

    place: ObjectPlace
    entries: tuple[ObjectEntry, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self.entries)

    @property
    def key(self) -> str:
        """What the model is kept under: changes with its place, and with any of its objects. Hexadecimal."""
        lines = [str(self.place), *(f"{e.name} {e.size} {e.e_tag or ''} {e.modified}" for e in self.entries)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:40]


def belongs_to_model(name: str) -> bool:
    """Whether a file is one that a model needs, by its name: safetensors and small files of data; no pickles, and no
    code."""
    if name.startswith(".") or name.endswith(_FOREIGN_INDEX):
        return False
    return name.endswith((_WEIGHTS, *_OTHERS)) or name.upper().startswith(_LEGAL)


def object_place(uri: str, roots: Roots) -> ObjectPlace:
    """The place of a model, for who may name what is in `roots`. Raises ModelNotFound, ModelNotAllowed."""
    try:
        return roots.check_readable_object(ObjectPlace.parse(uri))
    except ObjectMalformed as error:
        raise ModelNotFound(f"model {uri!r} names no place in object storage: {error}") from None
    except OutsideRoots as error:
        raise ModelNotAllowed(f"model {error}") from None


def list_model(place: ObjectPlace) -> ModelListing:
    """What is there of a model, by one request. Raises ModelNotFound, ModelLoadError for what is no whole model,
    ModelUnreachable, ModelDenied."""
    with told_of_models(place):
        found = list_objects(place)
    if not found:
        raise ModelNotFound(
            f"no model at {place}: nothing is stored below that prefix; expected a model in the Hugging Face layout,"
            " its files directly below it"
        )
    entries = tuple(entry for entry in found if belongs_to_model(entry.name))
    names = {entry.name for entry in entries}
    if not names & set(MARKS):
        raise ModelLoadError(
            f"{place} is not a complete model: config.json not found among its {len(found)} objects. Whoever puts a"
            " model there writes that last, so it may not be whole yet; expected the files of a model directly below"
            " the prefix"
        )
    if names.isdisjoint({FAKE_MODEL_FILE}) and not any(name.endswith(_WEIGHTS) for name in names):
        raise ModelLoadError(f"{place} is not a complete model: *.safetensors not found; no other format is read")
    large = [entry for entry in entries if not entry.name.endswith(_WEIGHTS) and entry.size > _MAX_OTHER_BYTES]
    if large or len(entries) > _MAX_FILES:
        what = f"{large[0].name} has {large[0].size:,} bytes" if large else f"it has {len(entries):,} files"
        raise ModelLoadError(
            f"{place} is no model that is fetched: {what}; expected at most {_MAX_FILES:,} files, and at most"
            f" {_MAX_OTHER_BYTES:,} bytes in one that is not weights"
        )
    return ModelListing(place, entries)


def fetch_model(listing: ModelListing, stopped: threading.Event, into: Path) -> None:
    """Fetches a model's files into a folder, the weights last, and makes them durable. Raises ModelLoadError as
    `list_model` does, also soon after `stopped` is set; ObjectChanged where it is another model meanwhile; OSError."""
    weights = [entry for entry in listing.entries if entry.name.endswith(_WEIGHTS)]
    others = [entry for entry in listing.entries if not entry.name.endswith(_WEIGHTS)]
    with told_of_models(listing.place):
        download([(entry, into / entry.name) for entry in others], stopped)
        if (into / INDEX_FILE).is_file():
            check_shards(into, {entry.name for entry in weights}, str(listing.place))
        download([(entry, into / entry.name) for entry in weights], stopped)


def too_large(what: str, size: int, limit: int) -> ModelCacheFull:
    """The error for a model that the cache has no room for."""
    return ModelCacheFull(
        f"{what} has {size:,} bytes, and this server keeps at most {limit:,} of models from object storage, those in"
        " use included; raise --model-cache-bytes"
    )


@contextmanager
def told_of_models(place: ObjectPlace) -> Iterator[None]:
    """Has what object storage raises be told as a ModelLoadError; but for ObjectChanged, after which one may look
    again."""
    try:
        yield
    except ObjectMissing as error:
        raise ModelNotFound(f"no model at {place}: {error}") from error
    except ObjectDenied as error:
        raise ModelDenied(
            f"{place} may not be read by this server: {error}; check the credentials in the server's environment, and"
            " that they allow to list the bucket and to read below the prefix"
        ) from error
    except ObjectChanged:
        raise
    except ObjectError as error:
        raise ModelUnreachable(
            f"{place} cannot be read now: {error}; expected object storage that answers: check region and endpoint in"
            " the server's environment (for s3://: AWS_REGION, AWS_ENDPOINT_URL), or try again later"
        ) from error
