"""Putting a trained model into object storage, where a reader takes it for whole only once it is. Imports no torch.

Nothing can be renamed there. So a claim comes first, a small object that the store makes for one run only; then the
model's files; then what marks it as a model (`config.json`, or what an adapter has instead); and last the claim goes.
Killed at any moment, the same run finds its claim and goes on.

    PREFIX/…                          the model's files
    PREFIX/.burnish-publishing.json   the claim
    PREFIX/.paused/RUN/step-N/…       the model of a run that pauses, until the run has ended
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from burnish_services.engine.models import CARD_FILE
from burnish_services.engine.object_models import MARKS
from burnish_services.engine.object_places import (
    ObjectChanged,
    ObjectDenied,
    ObjectError,
    ObjectExists,
    ObjectMissing,
    ObjectPlace,
)
from burnish_services.engine.objects import (
    create_object,
    is_anything_below,
    list_objects,
    put_object,
    read_small,
    remove_below,
    remove_object,
    upload,
)
from burnish_services.training.state import RunError

log = logging.getLogger(__name__)

_CLAIM, _PROBE, _PAUSED = ".burnish-publishing.json", ".burnish-probe", ".paused"
_FILES_AT_A_TIME = 3  # each in several parts
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds, while the store does not answer

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to stop while the store did not answer."""


def paused_place(output: ObjectPlace, run_id: str, step: int) -> ObjectPlace:
    """Where the model of a pause goes."""
    return output / _PAUSED / run_id / f"step-{step}"


def check_place(output: ObjectPlace, run_id: str, is_same: Callable[[dict[str, Any]], bool]) -> None:
    """Raises RunError where something else is at `output`, or this server may not write there. What the same run left
    may be there, and a model whose card `is_same`: training would make it again."""
    try:
        if is_anything_below(output, except_for=(_PAUSED, _PROBE)):
            claimed_by = _read(output / _CLAIM).get("run_id")
            is_other = claimed_by is not None or not is_same(_read(output / CARD_FILE))
            if claimed_by != run_id and is_other:
                raise _taken(output)
        put_object(output / _PROBE, b"")
        remove_object(output / _PROBE)
    except ObjectError as error:
        raise _failure(output, error) from error


def is_delivered(output: ObjectPlace, digest: str, run_id: str) -> bool:
    """Whether this very model is there, whole, and no other run may remove it. Raises ObjectError."""
    names = {entry.name for entry in list_objects(output)}
    if not names & set(MARKS) or _read(output / CARD_FILE).get("digest") != digest:
        return False
    return _CLAIM not in names or _is_mine(output, run_id)


def deliver(folder: Path, output: ObjectPlace, digest: str, run_id: str) -> None:
    """Brings the model in `folder`, which has this digest, to `output`; it is there, whole, when this returns. May be
    repeated. Raises RunError where something else is there, ObjectError, OSError."""
    claim = output / _CLAIM
    if not is_delivered(output, digest, run_id):
        begun = _claim(claim, run_id, digest)
        _upload(folder, output, keep=begun)
    finish(output, run_id)


def finish(output: ObjectPlace, run_id: str) -> None:
    """Removes what only a run that publishes needs, once its model is there. Raises ObjectError."""
    if _is_mine(output, run_id):
        remove_object(output / _CLAIM)
    remove_below(output / _PAUSED / run_id)


def deliver_paused(folder: Path, output: ObjectPlace, run_id: str, step: int) -> ObjectPlace:
    """Brings the model of a pause to its place below `output`, in the place of one before it. Raises ObjectError,
    OSError."""
    place = paused_place(output, run_id, step)
    remove_below(output / _PAUSED / run_id)
    _upload(folder, place, keep=False)
    return place


def abandon(output: ObjectPlace, run_id: str) -> None:
    """Removes what a run that has ended without a model left there. May be repeated. Raises ObjectError."""
    remove_below(output / _PAUSED / run_id)
    if _is_mine(output, run_id):
        # The claim last: killed before, the place is still this run's to clear; after it, it is anybody's.
        for entry in list_objects(output):
            if entry.name != _CLAIM:
                remove_object(entry.place)
        remove_object(output / _CLAIM)


def persistently(output: ObjectPlace, act: Callable[[], T], stop: threading.Event) -> T:
    """What `act` returns, tried again while the store does not answer: what was trained for hours can wait. Raises
    RunError where waiting does not help, Interrupted where `stop` is set meanwhile."""
    wait = _FIRST_WAIT
    while True:
        try:
            return act()
        except (ObjectDenied, ObjectMissing) as error:
            raise _failure(output, error) from error
        except ObjectError as error:
            log.warning("%s cannot be reached, trying again in %.0f s: %s", output, wait, error)
        if stop.wait(wait):
            raise Interrupted
        wait = min(2 * wait, _LONGEST_WAIT)


def _claim(claim: ObjectPlace, run_id: str, digest: str) -> bool:
    """Makes the place this run's. True where it was for the same model before, so that what is there may stay."""
    content = {"run_id": run_id, "digest": digest}
    output = ObjectPlace(claim.scheme, claim.bucket, claim.key.removesuffix(f"/{_CLAIM}"))
    if is_anything_below(output, except_for=(_PAUSED, _PROBE)):
        there = _read(claim)
        if there.get("run_id") != run_id:
            raise _taken(output)
        if there == content:
            return True
        # Another model of this run. Were it claimed over what is there, a kill now would have files of the one and of
        # the other, of one size, taken for those of one model.
        for entry in list_objects(output):
            if entry.name not in (_CLAIM, _PROBE):
                remove_object(output / entry.name)
        put_object(claim, json.dumps(content).encode())
        return False
    try:
        create_object(claim, json.dumps(content).encode())
    except ObjectExists:
        if _read(claim) != content:
            raise _taken(output) from None
    return False


def _upload(folder: Path, output: ObjectPlace, *, keep: bool) -> None:
    """Puts every file of a folder there, the marks last, and removes what else is there. `keep`: what is there and as
    large is this file already."""
    there = {entry.name: entry.size for entry in list_objects(output)}
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    for name in there.keys() - files.keys() - {_CLAIM, _PROBE}:
        remove_object(output / name)
    if not keep:
        for name in there.keys() & set(MARKS):
            remove_object(output / name)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    missing = [name for name in files if not keep or there.get(name) != sizes[name]]
    _put_all([(files[name], output / name) for name in missing if name not in MARKS])
    for name in reversed(MARKS):
        if name in missing:
            upload(files[name], output / name)
    now = {entry.name: entry.size for entry in list_objects(output) if entry.name in files}
    if now != sizes:
        raise ObjectChanged(f"{output} does not hold what was put there; does something else write to it?")


def _put_all(files: Sequence[tuple[Path, ObjectPlace]]) -> None:
    # The largest first, so that the last one to end is small.
    ordered = sorted(files, key=lambda file: -file[0].stat().st_size)
    with ThreadPoolExecutor(_FILES_AT_A_TIME, "delivery") as pool:
        for done in [pool.submit(upload, *file) for file in ordered]:
            done.result()


def _is_mine(output: ObjectPlace, run_id: str) -> bool:
    return _read(output / _CLAIM).get("run_id") == run_id


def _read(place: ObjectPlace) -> dict[str, Any]:
    """A small JSON object; empty where there is none."""
    try:
        found = json.loads(read_small(place))
    except (ObjectMissing, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _taken(output: ObjectPlace) -> RunError:
    return RunError(
        "FAILED_PRECONDITION",
        "OUTPUT_EXISTS",
        f"output_uri: {output} holds something else, or another run is publishing there; name a prefix with"
        " nothing below it, or remove what is there",
    )


def _failure(output: ObjectPlace, error: ObjectError) -> RunError:
    if isinstance(error, ObjectDenied):
        return RunError(
            "FAILED_PRECONDITION",
            "OUTPUT_DENIED",
            f"output_uri: this server may not write below {output}: {error}; check the credentials in the server's"
            " environment, and that they allow to list, read, write and delete there",
        )
    if isinstance(error, ObjectMissing):
        return RunError(
            "FAILED_PRECONDITION", "OUTPUT_NOT_FOUND", f"output_uri: {output}: {error}; expected a bucket that exists"
        )
    return RunError(
        "UNAVAILABLE",
        "OUTPUT_UNREACHABLE",
        f"output_uri: {output} cannot be reached now: {error}; check region and endpoint in the server's environment,"
        " or try again later",
    )
