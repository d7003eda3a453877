"""From what was asked for to what it means on this machine: paths, digests, and early refusals. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from burnish_services.engine.base import ModelDigestMismatch
from burnish_services.engine.fake import read_fake_model
from burnish_services.engine.models import check_model_directory, model_digest, resolve_uri
from burnish_services.training.core import Plan, RunSpec, plan_bilevel, plan_lora
from burnish_services.training.data import check_digest, resolve_file
from burnish_services.training.publish import check_output_free
from burnish_services.training.runs import Resolved, Selection
from burnish_services.training.state import RunError


@dataclass(frozen=True, slots=True)
class Site:
    """How this server trains."""

    trainer: str  # "sft" or "fake"
    chat_template: str | None


def resolve(spec: RunSpec, plan: Plan, site: Site, default_output: Path) -> Resolved:
    """Finds everything that a specification names. Raises SpecError, RunError, ModelLoadError, OSError."""
    lora = None if spec.lora is None else plan_lora(spec.lora)
    selection = _selection(spec)
    base = resolve_uri(spec.base_uri)
    if site.trainer == "fake":
        read_fake_model(base)
    else:
        check_model_directory(base)
    data = resolve_file(spec.data_uri, "data_uri")
    data_digest = check_digest(data, spec.data_digest, "data_digest")
    eval_data = resolve_file(spec.eval_data_uri, "eval_data_uri") if spec.eval_data_uri else None
    base_digest = model_digest(base)
    if spec.base_digest not in ("", base_digest):
        raise ModelDigestMismatch(
            f"the model at {spec.base_uri} has digest {base_digest}, expected {spec.base_digest}: its content is not "
            "what the request was made for"
        )
    resolved = Resolved(
        plan=plan,
        base=base,
        base_digest=base_digest,
        data=data,
        data_digest=data_digest,
        eval_data=eval_data,
        output=_output(spec.output_uri) if spec.output_uri else default_output,
        trainer=site.trainer,
        chat_template=site.chat_template,
        lora=lora,
        selection=selection,
    )
    check_output_free(resolved.output, resolved)
    return resolved


def _selection(spec: RunSpec) -> Selection | None:
    asked = spec.bilevel
    if asked is None:
        return None
    how = plan_bilevel(asked)
    path = resolve_file(asked.validation_data_uri, "bilevel.validation_data_uri")
    return Selection(how, path, check_digest(path, asked.validation_data_digest, "bilevel.validation_data_digest"))


def _output(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
    elif "://" in uri:
        raise RunError("INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri {uri!r}: expected a path or file:///path")
    else:
        path = Path(uri).expanduser()
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            "INVALID_ARGUMENT", "BAD_OUTPUT", f"output_uri: {path.parent} cannot be made: {error}"
        ) from error
    return path
