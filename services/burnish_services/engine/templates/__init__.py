"""Chat templates by name or file, and rendering them outside Hugging Face tokenizers.

Owns the built-in templates: `plain` for base models that bring none ("Human: …\\nAssistant: …<eos>\\n", as Middo
trains with) and `chatml`. A model's own template always wins unless the operator names another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish_services.engine.chat import TemplateError
from burnish_services.engine.tokenizer import ChatMessage

BUILT_IN = ("chatml", "plain")
DEFAULT = "plain"  # for models without a template of their own
# What a template raises that does not suit a conversation; it may do sums and look things up.
COMPLAINTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def load_template(name_or_file: str) -> str:
    """Source of a built-in template or of a Jinja file. Raises TemplateError where there is neither."""
    path = Path(__file__).with_name(f"{name_or_file}.jinja") if name_or_file in BUILT_IN else Path(name_or_file)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(
            f"no chat template {name_or_file!r}: expected one of {', '.join(BUILT_IN)} or a Jinja file ({error})"
        ) from error
    return source.removesuffix("\n")


def template_digest(source: str) -> str:
    """First 16 hexadecimal digits of the sha256 of a template's source."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def as_dictionaries(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Messages as chat templates expect them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def render(
    source: str, messages: Sequence[ChatMessage], *, add_generation_prompt: bool, bos: str = "", eos: str = ""
) -> str:
    """The conversation as `source` writes it. Raises TemplateError with the template's own complaint."""
    try:
        return _compile(source).render(
            messages=as_dictionaries(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=bos,
            eos_token=eos,
        )
    except COMPLAINTS as error:
        raise TemplateError(str(error)) from error


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    # The same settings as Hugging Face tokenizers render chat templates with.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _complain
    return environment.from_string(source)


def _complain(message: str) -> None:
    raise jinja2.TemplateError(message)
