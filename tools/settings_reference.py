"""Writes docs/settings.md from the settings' own definitions: of the command and the SDK, of a server, of each service.

`make docs` runs it; a test fails where docs/settings.md is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from burnish._settings import Settings
from burnish_services.embedding.config import EmbeddingSettings
from burnish_services.rewriting.config import RewritingSettings
from burnish_services.runtime.config import ServerSettings
from burnish_services.scoring.config import ScoringSettings
from burnish_services.training.config import TrainingSettings

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"
_HEAD = """\
# Settings

Made from the settings' own definitions by `make docs`; do not edit. The options of recipes are in [cli.md](cli.md),
those of followers in [training.md](training.md#several-machines). Where object storage is, and with which
credentials it is asked, is in [storage.md](storage.md), where traces go in [observability.md](observability.md).

Times are in seconds and sizes in bytes, unless a setting says otherwise.
"""
_CLIENT = """\
An option of the command (`--scoring-endpoint`, where it has one) wins over the environment, and that over
`burnish.toml` in the working directory, or the file that `--config` or `BURNISH_CONFIG` names. An unknown key, or a
variable that looks like a misspelt one, is an error. In Python: `burnish.load_settings()`.

```toml
scoring_endpoint = "scoring.internal:50051"
tls_ca = "ca.pem"
max_in_flight = 8
```
"""
_SERVER = """\
Of `python -m burnish_services`; an option wins over the environment, and there is no file. Where true or false is
wanted, the option stands alone, and the variable is one of these words.
"""
_SERVICE = "In the environment of its server alone.\n"


@dataclass(frozen=True)
class Section:
    """Settings of one kind. `named`: what else than a variable one has, with the heading of that column."""

    heading: str
    text: str
    settings: type[BaseSettings]
    named: tuple[str, Callable[[str], str]] | None = None


SECTIONS = (
    Section("The command and the SDK", _CLIENT, Settings, ("in burnish.toml", str)),
    Section("A server", _SERVER, ServerSettings, ("option", lambda name: f"--{name.replace('_', '-')}")),
    Section("Scoring", _SERVICE, ScoringSettings),
    Section("Embedding", _SERVICE, EmbeddingSettings),
    Section("Rewriting", _SERVICE, RewritingSettings),
    Section("Training", _SERVICE, TrainingSettings),
)
_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", SecretStr: "text", Path: "path"}


def reference() -> str:
    """The whole page."""
    return _HEAD + "".join(f"\n## {one.heading}\n\n{one.text}\n{_table(one)}" for one in SECTIONS)


def variable(settings: type[BaseSettings], name: str) -> str:
    """The variable of the environment that a setting is read from."""
    return f"{settings.model_config.get('env_prefix', '')}{name}".upper()


def _table(section: Section) -> str:
    headings = [*([section.named[0]] if section.named else []), "environment", "values", "default", "meaning"]
    lines = [f"| {' | '.join(headings)} |\n", f"{'|---' * len(headings)}|\n"]
    for name, field in section.settings.model_fields.items():
        names = [*([section.named[1](name)] if section.named else []), variable(section.settings, name)]
        cells = [*(f"`{one}`" for one in names), _values(field), _default(field.default), _meaning(field)]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


def _values(field: FieldInfo) -> str:
    """What a setting takes, in words."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "list, separated by commas"
    return " ".join([_KINDS[kind], *_bounds(field.metadata)])


def _bounds(metadata: Sequence[Any]) -> list[str]:
    words = []
    for bound in metadata:
        match bound:
            case annotated_types.Ge(ge=least):
                words.append(f"from {least:,}")
            case annotated_types.Gt(gt=least):
                words.append(f"above {least:,}")
            case annotated_types.Le(le=most):
                words.append(f"to {most:,}")
            case annotated_types.Lt(lt=most):
                words.append(f"to below {most:,}")
    return words


def _default(value: object) -> str:
    """A default as it would be given; a dash where there is none, and the meaning says what holds then."""
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case str() | Path() if str(value):
            return f"`{value}`"
        case _:
            return "–"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
