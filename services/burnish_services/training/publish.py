"""Publishing a trained model: a directory that appears whole, under its name, or not at all. Imports no torch.

Owns staging, the model's card (`burnish.json`), and what a crash at any moment leaves behind; who writes the weights
is the trainer's business.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import CARD_FILE, adapter_base_name, read_json, write_adapter_base
from burnish_services.engine.object_places import is_object_uri
from burnish_services.runtime.files import sync_path, sync_tree
from burnish_services.training import delivery
from burnish_services.training.runs import Resolved, RunDirectory, RunRecord
from burnish_services.training.state import Result, RunError

# Hyperparameters that change no weight, but when a run is safe and what stops it.
FREE = ("checkpoint_steps", "max_loss_ratio")


def staging_path(output: Path, run_id: str) -> Path:
    """Where a model is put together: beside its place, so that a rename brings it there."""
    return output.parent / f".{output.name}.{run_id}"


def card(
    record: RunRecord, *, canary: dict[str, Any], training: dict[str, Any], packages: list[str], device: str
) -> dict[str, Any]:
    """What `burnish.json` says about a model: where it comes from, how to make it again, and how to tell that an engine
    holds it. The same `base_digest` to `chat_template`, versions and environment make the same weights."""
    resolved = record.resolved
    return {
        "format": 1,
        "run_id": record.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **origin(resolved),
        "hyperparameters": asdict(resolved.plan),
        "canary": canary,
        "training": training,
        "versions": {name: release_of(name) for name in ("burnish", *packages)},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device,
            "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or None,
        },
    }


def origin(resolved: Resolved) -> dict[str, Any]:
    """What determines a model's weights, by name; None for what the run does not have."""
    plan, selection, refinement = resolved.plan, resolved.selection, resolved.refinement
    how = None if selection is None else asdict(selection.how)
    return {
        "base_digest": resolved.base_digest,
        "data_digest": resolved.data_digest,
        "hyperparameters": _determining(asdict(plan)),
        "chat_template": resolved.chat_template,
        "lora": None if resolved.lora is None else asdict(resolved.lora),
        "bilevel": None
        if selection is None or how is None
        else how | {"validation_digest": selection.validation_digest},
        "refinement": None if refinement is None else asdict(refinement),
        # Sums of floats are in another order.
        "processes": resolved.processes,
        # Which weights are the best follows from them.
        "eval_data_digest": resolved.eval_digest if plan.publish_best else None,
    }


def is_made_from(found: dict[str, Any], resolved: Resolved) -> bool:
    """Whether a model has the `origin` that `resolved` says, going by the card that was `found`, whatever it says."""
    given = found.get("hyperparameters")
    told = found | {"hyperparameters": _determining(given)} if isinstance(given, dict) else found
    wanted = json.loads(json.dumps(origin(resolved)))  # lists for tuples, as a card has them
    return all(told.get(key) == value for key, value in wanted.items())


def _determining(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in hyperparameters.items() if name not in FREE}


def publish(
    directory: RunDirectory,
    record: RunRecord,
    write: Callable[[Path], dict[str, Any]],
    result: Callable[[str], Result],
) -> Result:
    """Has `write` fill the staging directory and return the model's card, notes `result(digest)`, and renames.
    Raises OSError, ModelLoadError, or RunError where another model is in the way."""
    output = record.resolved.output
    staging = staging_path(output, record.run_id)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        card_of_model = write(staging)
        digest = model_digest(staging)
        if record.resolved.base_uri and adapter_base_name(staging) is not None:
            write_adapter_base(staging, record.resolved.base_uri)  # which means the same to other machines
        text = json.dumps({**card_of_model, "digest": digest}, indent=2)
        (staging / CARD_FILE).write_text(text + "\n", encoding="utf-8")
        made = result(digest)
        sync_tree(staging)
        # Noted before it is true: whoever finds the note compares it with what stands at the output.
        directory.write_result(made)
        if not holds_model(output, made.model_digest):
            check_output_free(output)
            staging.rename(output)
            sync_path(output.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return made


def published(directory: RunDirectory, record: RunRecord) -> Result | None:
    """The result of a run whose model is in its place already, though nobody was told. Raises ObjectError where that
    cannot be found out."""
    noted = directory.read_result()
    if noted is None:
        return None
    place = record.resolved.place
    there = (
        holds_model(record.resolved.output, noted.model_digest)
        if place is None
        else delivery.is_delivered(place, noted.model_digest, record.run_id)
    )
    return noted if there else None


def find_made(directory: RunDirectory, record: RunRecord) -> Result | None:
    """The result of a run whose model belongs in object storage and needs no training any more: it lies here, whole, or
    is there. Raises ObjectError."""
    noted = directory.read_result()
    try:
        # Here first: who delivers it removes it once it is there.
        if noted is not None and holds_model(record.resolved.output, noted.model_digest):
            return noted
    except ModelLoadError:  # being removed
        pass
    return published(directory, record)


def deliver_made(directory: RunDirectory, record: RunRecord) -> Result | None:
    """The result of a run whose model belongs in object storage, and is there, brought from here where need be; None
    where it is in neither place, or belongs here. Raises RunError, ObjectError, OSError."""
    noted, place = directory.read_result(), record.resolved.place
    output = record.resolved.output
    if noted is None or place is None:
        return None
    if delivery.is_delivered(place, noted.model_digest, record.run_id):  # by a worker that came no further
        delivery.finish(place, record.run_id)
    elif holds_model(output, noted.model_digest):
        directory.note_placed()
        delivery.deliver(output, place, noted.model_digest, record.run_id)
    else:
        return None
    shutil.rmtree(output, ignore_errors=True)
    directory.placed.unlink(missing_ok=True)
    return noted


def holds_model(output: Path, digest: str) -> bool:
    """True where the directory holds exactly this model."""
    if not output.is_dir() or not any(output.iterdir()):
        return False
    base = adapter_base_name(output)
    if base is not None and is_object_uri(base):
        # Its digest follows from its base, too, which is not here; but the directory appeared whole.
        return bool(read_json(output / CARD_FILE).get("digest") == digest)
    return model_digest(output) == digest


def check_place_free(resolved: Resolved, run_id: str) -> None:
    """Raises RunError where something is already where a run's model goes; a model made from what `resolved` says may
    be, since training would make it again."""
    if resolved.place is None:
        check_output_free(resolved.output, resolved)
    else:
        delivery.check_place(resolved.place, run_id, lambda card: is_made_from(card, resolved))


def check_output_free(output: Path, resolved: Resolved | None = None) -> None:
    """As `check_place_free`, of a directory."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    card_file = output / CARD_FILE
    if resolved is not None and card_file.is_file() and is_made_from(read_json(card_file), resolved):
        return
    raise RunError(
        "FAILED_PRECONDITION",
        "OUTPUT_EXISTS",
        f"output_uri: {output} exists and holds something else; name a directory that is not there, or remove it",
    )


def release_of(package: str) -> str:
    """Which release of a package is installed here, or `unknown`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
