"""The fake engine's tokenizer: common English words, and UTF-8 bytes for everything else.

Lossless on any text, fixed for ever (ids appear in golden values), a ChatML template by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from burnish_services.engine import templates
from burnish_services.engine.literals import encode_guarded, special_pattern
from burnish_services.engine.tokenizer import ChatMessage, Encoding

BOS, END_OF_TURN, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, BOS, END_OF_TURN)
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_WORD = FIRST_BYTE + 256

# Most frequent first; ids follow this order, so the list must only ever grow at its end.
_WORDS = re.findall(
    r"[a-z]+",
    """
the of and to in a is that for it as was with be by on not he i this are or his from at which but have an had they you
were their one all we can her has there been if more when will would who so no out up into do any your what its about
than other time only new some could these two may then first them such like my now over also our people made after did
many must before back through years where much way well down should because each just those how too state good very
make world still own see men work long get here between both life being under never day same another know while last
might us great old year off come since against go came right used take three states himself few house use during
without again place around however home small found thought went say part once general high upon school every does got
united left number course war until always away something fact water less public put think almost hand enough far took
head yet government system better set told nothing night end why called didn eyes find going look asked later knew
point next program city business give group toward young days let room word write answer question following sentence
example explain describe list given provide input text summary email story paragraph create generate number model data
language computer food help important information different process change using need best based health energy company
include function return value step order human child love idea name color animal famous book science learn power case
means result form cause effect problem solution method reason type main feature benefit technology people country
social market customer product service team music film history art nature environment climate air earth plant light
""",
)
WORDS: tuple[str, ...] = tuple(dict.fromkeys(_WORDS))
VOCAB_SIZE = FIRST_WORD + 2 * len(WORDS)

_WORD_IDS = {word: FIRST_WORD + 2 * index for index, word in enumerate(WORDS)}
_WORD_IDS |= {" " + word: FIRST_WORD + 2 * index + 1 for index, word in enumerate(WORDS)}
_SPECIAL_IDS = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
_SPECIAL = special_pattern(SPECIAL_TOKENS)
_PLAIN_PIECES = re.compile(r" ?[a-z]+|.", re.DOTALL)
_PIECES = re.compile(_SPECIAL.pattern + "|" + _PLAIN_PIECES.pattern, re.DOTALL)


class FakeTokenizer:
    """Implements `ChatTokenizer`."""

    def __init__(self, chat_template: str | None = None) -> None:
        self._template = templates.load_template(chat_template or "chatml")
        self._digest = templates.template_digest(self._template)

    @property
    def template_digest(self) -> str:
        """See `ChatTokenizer`."""
        return self._digest

    @property
    def end_tokens(self) -> frozenset[str]:
        """See `ChatTokenizer`."""
        return frozenset({END_OF_TURN})

    @property
    def special_texts(self) -> tuple[str, ...]:
        """See `ChatTokenizer`."""
        return SPECIAL_TOKENS

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        """See `ChatTokenizer`."""
        return templates.render(self._template, messages, add_generation_prompt=add_generation_prompt, eos=END_OF_TURN)

    def encode(
        self, text: str, *, add_special_tokens: bool = False, literals: Mapping[str, str] | None = None
    ) -> Encoding:
        """See `ChatTokenizer`; with `add_special_tokens` a BOS stands first."""
        if literals:
            return encode_guarded(text, literals, _SPECIAL, _SPECIAL_IDS.__getitem__, _encode_plain)
        encoding = _encode(text, _PIECES)
        if add_special_tokens:
            return Encoding([_SPECIAL_IDS[BOS], *encoding.ids], [(0, 0), *encoding.spans])
        return encoding

    def decode(self, ids: Sequence[int]) -> str:
        """See `ChatTokenizer`."""
        return b"".join(_BYTES[token] for token in ids).decode("utf-8", errors="replace")


def _encode(text: str, pieces: re.Pattern[str]) -> Encoding:
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for match in pieces.finditer(text):
        for token, length in _piece(match.group()):
            start = spans[-1][1] if spans else 0
            ids.append(token)
            # The further bytes of a character have its span, as byte-level tokenizers report it.
            spans.append((start, start + length) if length else spans[-1])
    return Encoding(ids, spans)


def _encode_plain(text: str) -> Encoding:
    return _encode(text, _PLAIN_PIECES)


def word_rank(token: int) -> int:
    """How rare a word token is, from 0; -1 for bytes and special tokens."""
    return (token - FIRST_WORD) // 2 if token >= FIRST_WORD else -1


@lru_cache(maxsize=1 << 15)
def _piece(piece: str) -> tuple[tuple[int, int], ...]:
    """Tokens of one piece, each with the number of characters it begins."""
    known = _SPECIAL_IDS.get(piece, _WORD_IDS.get(piece))
    if known is not None:
        return ((known, len(piece)),)
    tokens: list[tuple[int, int]] = []
    for character in piece:
        for index, byte in enumerate(character.encode("utf-8", errors="replace")):
            tokens.append((FIRST_BYTE + byte, 1 if index == 0 else 0))
    return tuple(tokens)


_BYTES: tuple[bytes, ...] = (
    *(b"" for _ in SPECIAL_TOKENS),
    *(bytes([byte]) for byte in range(256)),
    *(prefix + word.encode() for word in WORDS for prefix in (b"", b" ")),
)
