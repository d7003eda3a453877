"""Text that looks like a control token but is not one: `<|im_end|>` in a user's message is eight characters, no end.

A tokenizer finds its special tokens anywhere in a rendered conversation. So before a template sees the messages,
every special token's text in them is replaced by one placeholder character; what special tokens the rendered text
then holds are the template's own. Encoding splits at those and spells the placeholders out as plain text. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer, Encoding

_FIRST_PLACEHOLDER = 0xF0000  # a private-use plane: no text has its characters but by odd chance, which is looked for


def guard(tokenizer: ChatTokenizer, messages: Sequence[ChatMessage]) -> tuple[Sequence[ChatMessage], dict[str, str]]:
    """The messages with placeholders, and what each placeholder stands for; the same messages where none is needed."""
    found = {text for text in tokenizer.special_texts if any(text in message.content for message in messages)}
    if not found:
        return messages, {}
    used = {character for message in messages for character in message.content}
    free = (chr(code) for code in range(_FIRST_PLACEHOLDER, 0xFFFFE) if chr(code) not in used)
    placeholders = dict(zip(sorted(found), free, strict=False))
    pattern = special_pattern(placeholders)
    guarded = [
        replace(message, content=pattern.sub(lambda match: placeholders[match.group()], message.content))
        for message in messages
    ]
    return guarded, {placeholder: text for text, placeholder in placeholders.items()}


def special_pattern(texts: Sequence[str] | Mapping[str, str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest where several fit."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def encode_guarded(
    text: str,
    literals: Mapping[str, str],
    special: re.Pattern[str],
    special_id: Callable[[str], int],
    plain: Callable[[str], Encoding],
) -> Encoding:
    """Tokens of guarded text; spans are positions in it, so all tokens of a spelt-out placeholder have its own one.
    `plain` encodes without looking for special tokens."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for match in [*special.finditer(text), None]:
        end = match.start() if match else len(text)
        if at < end:
            spelt, position = _spell_out(text[at:end], literals)
            encoding = plain(spelt)
            ids += encoding.ids
            spans += [(at + position[a], at + position[max(b - 1, a)] + (b > a)) for a, b in encoding.spans]
        if match:
            ids.append(special_id(match.group()))
            spans.append(match.span())
            at = match.end()
    return Encoding(ids, spans)


def _spell_out(piece: str, literals: Mapping[str, str]) -> tuple[str, list[int]]:
    """The piece with placeholders spelt out, and for each of its characters, and for its end, where it stood."""
    spelt, position = [], []
    for index, character in enumerate(piece):
        text = literals.get(character, character)
        spelt.append(text)
        position += [index] * len(text)
    return "".join(spelt), [*position, len(piece)]
