"""Hugging Face tokenizers behind the `ChatTokenizer` protocol.

Owns which chat template is in use (the operator's, else the model's own, else `plain`) and which tokens end a turn.
Imports transformers; the rules of masks are in `chat.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from burnish_services.engine import templates
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.chat import TemplateError
from burnish_services.engine.literals import encode_guarded, special_pattern
from burnish_services.engine.models import read_json
from burnish_services.engine.tokenizer import ChatMessage, Encoding
from burnish_services.engine.untrusted import NO_CODE, cannot_load

# End-of-turn tokens that some models know but do not name as their end-of-sequence token.
_KNOWN_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>")


class HfTokenizer:
    """Implements `ChatTokenizer` for a model directory."""

    def __init__(self, directory: Path | str, chat_template: str | None = None) -> None:
        """`chat_template`: name of a built-in template or a file. Raises ModelLoadError and TemplateError."""
        self.directory = Path(directory)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(self.directory), **NO_CODE)
        except Exception as error:  # transformers raises anything here, from KeyError to OSError
            raise cannot_load("the tokenizer", directory, error) from error
        if not self._tokenizer.is_fast:
            raise ModelLoadError(
                f"the tokenizer in {directory} reports no character offsets; expected one with a tokenizer.json"
            )
        self._backend = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        own = _own_template(self._tokenizer.chat_template)
        self._is_own = chat_template is None and own is not None
        if chat_template is None and own is not None:
            self._template = own
        else:
            self._template = templates.load_template(chat_template or templates.DEFAULT)
        self._digest = templates.template_digest(self._template)
        # Only where the model's tokenizer begins texts with a BOS may a built-in template write one.
        begins = self._backend.encode("a", add_special_tokens=True).ids[:1]
        self._bos = self._tokenizer.bos_token if begins == [self._tokenizer.bos_token_id] else ""
        self._end_tokens = self._find_end_tokens()
        added = self._tokenizer.added_tokens_decoder
        self._special_ids = {str(token.content): int(number) for number, token in added.items() if token.special}

    @property
    def template_digest(self) -> str:
        """See `ChatTokenizer`."""
        return self._digest

    @property
    def end_tokens(self) -> frozenset[str]:
        """See `ChatTokenizer`."""
        return frozenset(self._end_tokens)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """See `ChatTokenizer`."""
        return tuple(self._special_ids)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids of `end_tokens`; generation ends at any of them."""
        return frozenset(self._end_tokens.values())

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        """See `ChatTokenizer`."""
        if not self._is_own:
            return templates.render(
                self._template,
                messages,
                add_generation_prompt=add_generation_prompt,
                bos=self._bos or "",
                eos=self._tokenizer.eos_token or "",
            )
        try:
            text = self._tokenizer.apply_chat_template(
                templates.as_dictionaries(messages),
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                strftime_now=templates.fixed_date,
            )
        except templates.COMPLAINTS as error:
            raise TemplateError(str(error)) from error
        return str(text)

    def encode(
        self, text: str, *, add_special_tokens: bool = False, literals: Mapping[str, str] | None = None
    ) -> Encoding:
        """See `ChatTokenizer`."""
        if literals:
            return encode_guarded(
                text, literals, special_pattern(self.special_texts), self._special_ids.__getitem__, self._encode_plain
            )
        encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return Encoding(encoding.ids, encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """See `ChatTokenizer`."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def _encode_plain(self, text: str) -> Encoding:
        encoding = self._plain_backend.encode(text, add_special_tokens=False)
        return Encoding(encoding.ids, encoding.offsets)

    @cached_property
    def _plain_backend(self) -> Any:
        """A copy that takes special tokens' texts for plain text; others may be encoding with the first."""
        backend = type(self._backend).from_str(self._backend.to_str())
        backend.encode_special_tokens = True
        return backend

    def _find_end_tokens(self) -> dict[str, int]:
        """Texts and ids of the tokens that end a turn: what the files name as end of sequence, and known ones."""
        tokens = {self._tokenizer.eos_token} if self._tokenizer.eos_token else set()
        generation = self.directory / "generation_config.json"
        named = read_json(generation).get("eos_token_id") if generation.is_file() else None
        for token_id in named if isinstance(named, list) else [named]:
            if isinstance(token_id, int):
                tokens.add(self._backend.id_to_token(token_id))
        added = {str(token.content) for token in self._tokenizer.added_tokens_decoder.values()}
        tokens |= added & set(_KNOWN_END_TOKENS)
        ids = {token: self._backend.token_to_id(token) for token in tokens if token}
        return {token: token_id for token, token_id in sorted(ids.items()) if token_id is not None}


def _own_template(template: Any) -> str | None:
    """The tokenizer's template; the one named `default` where it has several."""
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template.strip() else None
