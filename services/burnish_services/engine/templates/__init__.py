"""Chat templates by name or file, and rendering them outside Hugging Face tokenizers.

Owns the built-in templates: `plain` for base models that bring none ("Human: …\\nAssistant: …<eos>\\n", as Middo
trains with) and `chatml`. A model's own template always wins unless the operator names another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish_services.engine.chat import TemplateError
from burnish_services.engine.tokenizer import ChatMessage

BUILT_IN = ("chatml", "plain")
_FIXED_DATE = date(2024, 7, 26)
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
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _complain
    environment.globals["strftime_now"] = fixed_date
    return environment.from_string(source)


def fixed_date(form: str) -> str:
    """What templates that ask for today's date are told, always: a sample's tokens, and with them its scores, must not
    depend on the day. It is the day that Llama 3.2's own template falls back on."""
    return _FIXED_DATE.strftime(form)


class _Generation(Extension):
    """What stands between `generation` and `endgeneration`, which say what a model wrote."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's content, as if it stood there alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes what HTML would not take.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _complain(message: str) -> None:
    raise jinja2.TemplateError(message)
