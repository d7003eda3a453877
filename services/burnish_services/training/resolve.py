"""From what was asked for to what it means on this machine: paths, digests, and early refusals. Blocking."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish_services.engine.base import ModelDigestMismatch
from burnish_services.engine.chat import TemplateError
from burnish_services.engine.fake import read_fake_model
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.models import check_model_directory
from burnish_services.engine.object_places import ObjectMalformed, ObjectPlace, is_object_uri
from burnish_services.engine.places import NotLocal, OutsideRoots, Roots, local_path
from burnish_services.engine.templates import load_template
from burnish_services.training.core import Plan, RunSpec, fit_processes, plan_bilevel, plan_lora, plan_refinement
from burnish_services.training.publish import check_place_free, release_of
from burnish_services.training.runs import Resolved, Selection
from burnish_services.training.sources import Located, Sources
from burnish_services.training.state import RunError

_SOFTWARE = ("burnish", "torch", "transformers", "accelerate", "peft", "liger-kernel")


@dataclass(frozen=True, slots=True)
class Site:
    """How this server trains, and what it reads."""

    trainer: str  # "sft" or "fake"
    chat_template: str | None
    sources: Sources
    models: ModelStore
    kept: tuple[Path, ...]  # where this server keeps runs, vectors and fetched models: nobody publishes anything there
    processes: int = 1  # of all machines
    nodes: int = 1


def resolve(spec: RunSpec, plan: Plan, site: Site, default_output: Path, abandoned: threading.Event) -> Resolved:
    """Finds everything that a specification names, and fetches data that lies elsewhere. Raises SpecError, RunError,
    ModelLoadError, OSError; Abandoned soon after `abandoned` is set."""

    def located(uri: str, digest: str, field: str) -> Located:
        return site.sources.locate(uri, digest, field, abandoned)

    # What pauses is trained by one process, however many there are for other runs.
    processes, nodes = (site.processes, site.nodes) if spec.refinement is None else (1, 1)
    plan = fit_processes(plan, spec.hyperparameters, processes)
    lora = None if spec.lora is None else plan_lora(spec.lora)
    how = None if spec.bilevel is None else plan_bilevel(spec.bilevel)
    refinement = None if spec.refinement is None else plan_refinement(spec)
    # A worker takes a lease of its own; the model may be gone from the cache by then, and is fetched again.
    with site.models.lease(spec.base_uri, spec.base_digest) as lease:
        base = lease.path
        if site.trainer == "fake":
            read_fake_model(base)
        else:
            check_model_directory(base)
        base_digest = model_digest(base)
    if spec.base_digest not in ("", base_digest):
        raise ModelDigestMismatch(
            f"the model at {spec.base_uri} has digest {base_digest}, expected {spec.base_digest}: its content is not "
            "what the request was made for"
        )
    output, publish_to = default_output, ""
    if is_object_uri(spec.output_uri):
        publish_to = str(_place(spec.output_uri, site.sources.roots))
    elif spec.output_uri:
        output = _output(spec.output_uri, site.sources.roots, site.kept)
    # Last, since it may take long.
    data = located(spec.data_uri, spec.data_digest, "data_uri")
    eval_data = located(spec.eval_data_uri, "", "eval_data_uri") if spec.eval_data_uri else None
    selection = None
    if spec.bilevel is not None and how is not None:
        asked = spec.bilevel
        validation = located(asked.validation_data_uri, asked.validation_data_digest, "bilevel.validation_data_uri")
        selection = Selection(how, validation.path, validation.digest)
    resolved = Resolved(
        plan=plan,
        base=base,
        base_digest=base_digest,
        data=data.path,
        data_digest=data.digest,
        eval_data=eval_data.path if eval_data else None,
        eval_digest=eval_data.digest if eval_data else "",
        output=output,
        trainer=site.trainer,
        chat_template=site.chat_template,
        processes=processes,
        nodes=nodes,
        lora=lora,
        selection=selection,
        refinement=refinement,
        base_uri=spec.base_uri if is_object_uri(spec.base_uri) else "",
        publish_to=publish_to,
        made_by=_software(site),
    )
    check_place_free(resolved, default_output.parent.name)
    return resolved


def _check_apart(output: Path, uri: str, kept: Sequence[Path]) -> None:
    """Raises RunError for a place among what the server keeps, which it would take for its own."""
    place = next((place for place in kept if output.resolve().is_relative_to(place.resolve())), None)
    if place is not None:
        raise RunError(
            "PERMISSION_DENIED",
            "PATH_NOT_ALLOWED",
            f"output_uri is {uri!r}, which is in {place}, where this server keeps what is its own; expected another"
            " place",
        )


def _software(site: Site) -> str:
    """A digest of what makes the weights besides what was asked for: releases, and the operator's chat template."""
    try:
        template = load_template(site.chat_template) if site.chat_template else ""
    except TemplateError as error:  # the worker says so
        template = str(error)
    made_by = [*map(release_of, _SOFTWARE), template]
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]


def _place(uri: str, roots: Roots) -> ObjectPlace:
    try:
        place = roots.check_writable_object(ObjectPlace.parse(uri))
    except OutsideRoots as error:
        raise RunError("PERMISSION_DENIED", "PATH_NOT_ALLOWED", f"output_uri {error}") from None
    except ObjectMalformed as error:
        raise RunError("INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri is {uri!r}: {error}") from None
    if not place.key:
        raise RunError("INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri is {uri!r}; expected a prefix in that bucket")
    return place


def _output(uri: str, roots: Roots, kept: Sequence[Path]) -> Path:
    try:
        path = roots.check_writable(local_path(uri))
        _check_apart(path, uri, kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # or it would show when the training is done
    except OutsideRoots as error:
        raise RunError("PERMISSION_DENIED", "PATH_NOT_ALLOWED", f"output_uri {error}") from None
    except NotLocal as error:
        raise RunError("INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri {error}") from None
    except (OSError, RuntimeError) as error:
        raise RunError(
            "INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri is {uri!r}; expected a place where that can be made: {error}"
        ) from error
    return path
