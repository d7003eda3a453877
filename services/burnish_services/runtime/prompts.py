"""Prompts as files: loaded from a service's `prompts/` folder, filled in by Jinja, named by a digest of their text.

Owns loading and naming, no prompt's words. What is filled in is never read as a template itself. A prompt of several
turns has a line `{# user #}` or `{# assistant #}` before each of them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined

from burnish_services.engine.tokenizer import ChatMessage

SUFFIX = ".jinja"
_TURN = re.compile(r"^\{# (user|assistant) #\}\n", re.MULTILINE)


class PromptFiles:
    """All prompts of one package, by name without suffix."""

    def __init__(self, package: str) -> None:
        folder = resources.files(package) / "prompts"
        self._texts = {
            entry.name.removesuffix(SUFFIX): entry.read_text(encoding="utf-8")
            for entry in folder.iterdir()
            if entry.name.endswith(SUFFIX)
        }
        self._environment = Environment(
            loader=DictLoader(self._texts),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - a model reads this, not a browser
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # Compiling a turn takes several times as long as filling it in.
        self._template = functools.cache(self._environment.from_string)

    def render(self, name: str, **values: object) -> str:
        """The prompt with `values` filled in, without space around it. A value that the prompt needs and does not
        get is a defect and raises."""
        return self._environment.get_template(name).render(**values).strip()

    def render_turns(self, name: str, **values: object) -> list[ChatMessage]:
        """The turns of a prompt, each filled in on its own: no value can end a turn or begin one."""
        _, *pieces = _TURN.split(self._texts[name])
        return [
            ChatMessage(role, self._template(text).render(**values).strip())
            for role, text in zip(pieces[::2], pieces[1::2], strict=True)
        ]

    def digest(self, names: Sequence[str], rule: str = "") -> str:
        """First 16 hexadecimal digits of the sha256 over the named prompts' names and texts; and over the `rule` by
        which replies to them are read, where results of two must not be mixed."""
        hasher = hashlib.sha256(rule.encode())
        for name in sorted(names):
            hasher.update(f"{name}\0{self._texts[name]}\0".encode())
        return hasher.hexdigest()[:16]
