"""What a record means: alpaca, sharegpt or chat messages, to a conversation and back. Knows no files.

Alpaca's user text is `instruction`, followed by a line break and `input` where that is not empty. A record is turned
back only where its conversation changed; what did not change is written back from the record itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from burnish._types import Message, Role
from burnish.coordinator.formats.json_text import NotJson, parse_json

Record = dict[str, Any]  # one row as it came: JSON values only


class Layout(StrEnum):
    """How a record holds its conversation."""

    ALPACA = "alpaca"  # instruction, input, output
    SHAREGPT = "sharegpt"  # conversations: [{"from": "human", "value": ...}, ...]
    MESSAGES = "messages"  # messages: [{"role": "user", "content": ...}, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that are read, for data that calls them something else."""

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    system: str = "system"
    history: str = "history"
    conversations: str = "conversations"
    messages: str = "messages"
    id: str = "id"


class RowProblem(ValueError):
    """Why a record is no sample: what was found and what was expected, without the place."""


_SHAREGPT_ROLES = {
    "human": Role.USER,
    "user": Role.USER,
    "gpt": Role.ASSISTANT,
    "assistant": Role.ASSISTANT,
    "chatgpt": Role.ASSISTANT,
    "bard": Role.ASSISTANT,
    "system": Role.SYSTEM,
}
_SHAREGPT_WORDS = {Role.USER: "human", Role.ASSISTANT: "gpt", Role.SYSTEM: "system"}


def detect(record: Mapping[str, Any], columns: Columns) -> Layout | None:
    """The layout of a record, told by its columns; None where it is none of the three."""
    if columns.messages in record:
        return Layout.MESSAGES
    if columns.conversations in record:
        return Layout.SHAREGPT
    if columns.instruction in record and columns.output in record:
        return Layout.ALPACA
    return None


def known_columns(layout: Layout, columns: Columns) -> frozenset[str]:
    """The columns that the layout reads; all others travel through untouched."""
    if layout is Layout.ALPACA:
        names = (columns.instruction, columns.input, columns.output, columns.system, columns.history)
        return frozenset(names)
    if layout is Layout.SHAREGPT:
        return frozenset((columns.conversations, columns.system))
    return frozenset((columns.messages,))


def to_messages(record: Mapping[str, Any], layout: Layout, columns: Columns) -> tuple[Message, ...]:
    """The conversation of a record. Raises RowProblem where it is not one that ends in a non-empty response."""
    if layout is Layout.ALPACA:
        messages = _from_alpaca(record, columns)
    elif layout is Layout.SHAREGPT:
        messages = _from_sharegpt(record, columns)
    else:
        messages = _from_messages(record, columns)
    _check(messages)
    return tuple(messages)


def rewritten_record(
    messages: Sequence[Message], layout: Layout, columns: Columns, original: Mapping[str, Any], *, keep_unknown: bool
) -> Record:
    """The record of a conversation that came from rewriting `original`: its columns in its order, and its words for
    the roles. With `keep_unknown` the columns that Burnish does not know are taken over too."""
    own: Record
    if tuple(messages[:-1]) == to_messages(original, layout, columns)[:-1]:
        own = _answered(messages[-1].content, layout, columns, original)
    elif layout is Layout.ALPACA:
        own = alpaca_record(messages, columns)
    elif layout is Layout.SHAREGPT:
        own = {columns.conversations: _sharegpt_turns(messages, columns, original)}
    else:
        own = {columns.messages: [{"role": m.role.value, "content": m.content} for m in messages]}
    known = known_columns(layout, columns)
    record: Record = {}
    for name, value in original.items():
        if name in own:
            record[name] = own[name] if own[name] or value else value  # an empty column stays as it was empty
        elif name in known or keep_unknown:  # known, not in own: a system text that sharegpt keeps apart
            record[name] = value
    for name, value in own.items():  # columns that this conversation needs and the original did without
        if name not in record and value:
            record[name] = value
    return record


def alpaca_record(messages: Sequence[Message], columns: Columns) -> Record:
    """Alpaca's five columns; the whole user text becomes `instruction`. Earlier turns become `history`."""
    system = messages[0].content if messages[0].role is Role.SYSTEM else ""
    turns = [m.content for m in messages if m.role is not Role.SYSTEM]
    history = [[turns[i], turns[i + 1]] for i in range(0, len(turns) - 2, 2)]
    return {
        columns.instruction: turns[-2],
        columns.input: "",
        columns.output: turns[-1],
        columns.system: system,
        columns.history: history,
    }


def _from_alpaca(record: Mapping[str, Any], columns: Columns) -> list[Message]:
    instruction = _text(record, columns.instruction)
    extra_input = _text(record, columns.input)
    output = _text(record, columns.output)
    system = _text(record, columns.system)
    messages = [Message(Role.SYSTEM, system)] if system else []
    history = record.get(columns.history)
    if isinstance(history, str):
        history = _json_list(history, columns.history) if history.strip() else []
    if history and not isinstance(history, list):
        raise RowProblem(f'"{columns.history}" must be a list of [prompt, response] pairs of text')
    for pair in history or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowProblem(f'"{columns.history}" must be a list of [prompt, response] pairs of text')
        messages += [Message(Role.USER, pair[0]), Message(Role.ASSISTANT, pair[1])]
    user = instruction + (f"\n{extra_input}" if extra_input else "")
    if not user.strip():
        raise RowProblem(f'"{columns.instruction}" is empty; expected the prompt as text')
    if not output.strip():
        raise RowProblem(f'"{columns.output}" is empty; expected the response as text')
    return [*messages, Message(Role.USER, user), Message(Role.ASSISTANT, output)]


def _from_sharegpt(record: Mapping[str, Any], columns: Columns) -> list[Message]:
    system = _text(record, columns.system)
    messages = [Message(Role.SYSTEM, system)] if system else []
    for number, turn in enumerate(_turns(record, columns.conversations), start=1):
        where = f'"{columns.conversations}", turn {number}'
        word, text = (
            (turn.get("from"), turn.get("value")) if "from" in turn else (turn.get("role"), turn.get("content"))
        )
        role = _SHAREGPT_ROLES.get(word) if isinstance(word, str) else None
        if role is None:
            raise RowProblem(f"{where}: the speaker is {word!r}; expected one of human, gpt, system")
        if not isinstance(text, str):
            raise RowProblem(f"{where}: the text is {_kind(text)}; expected text")
        messages.append(Message(role, text))
    return messages


def _from_messages(record: Mapping[str, Any], columns: Columns) -> list[Message]:
    messages = []
    for number, turn in enumerate(_turns(record, columns.messages), start=1):
        where = f'"{columns.messages}", message {number}'
        role, content = turn.get("role"), turn.get("content")
        if role not in ("system", "user", "assistant"):
            raise RowProblem(f"{where}: the role is {role!r}; expected system, user or assistant")
        if not isinstance(content, str):
            raise RowProblem(f"{where}: the content is {_kind(content)}; expected text")
        messages.append(Message(Role(role), content))
    return messages


def _check(messages: Sequence[Message]) -> None:
    """The rules of burnish.api.common.v1.Sample, and a response that is there."""
    turns = messages[1:] if messages and messages[0].role is Role.SYSTEM else messages
    if not turns:
        raise RowProblem("the conversation is empty; expected a user message and an assistant message")
    for number, message in enumerate(turns):
        expected = Role.ASSISTANT if number % 2 else Role.USER
        if message.role is not expected:
            raise RowProblem(
                f"message {number + 1} (a system message not counted) is by {message.role.value}; expected"
                f" {expected.value}: user and assistant take turns, the user first"
            )
        if not message.content.strip():
            raise RowProblem(f"message {number + 1}, by {message.role.value}, is empty; expected text")
    if turns[-1].role is not Role.ASSISTANT:
        raise RowProblem("the conversation ends with a user message; expected the response last")
    for message in messages:
        if not message.content.isascii():
            try:
                message.content.encode("utf-8")
            except UnicodeEncodeError:
                raise RowProblem("the text holds half of a surrogate pair; expected valid Unicode") from None


def _answered(response: str, layout: Layout, columns: Columns, original: Mapping[str, Any]) -> Record:
    """The column of `original` that holds its last response, with another one in its place. Instruction and input stay
    apart, and turns keep what else they say: their weight, a name, tools that were called."""
    if layout is Layout.ALPACA:
        return {columns.output: response}
    name = columns.conversations if layout is Layout.SHAREGPT else columns.messages
    *turns, last = _turns(original, name)
    text = "value" if layout is Layout.SHAREGPT and "from" in last else "content"
    return {name: [*turns, {**last, text: response}]}


def _sharegpt_turns(messages: Sequence[Message], columns: Columns, original: Mapping[str, Any]) -> list[dict[str, str]]:
    role_key, text_key, words = "from", "value", dict(_SHAREGPT_WORDS)
    turns = original.get(columns.conversations)
    if isinstance(turns, str):
        turns = parse_json(turns)
    for turn in turns or []:
        role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
        words[_SHAREGPT_ROLES[turn[role_key]]] = turn[role_key]
    # A system text of its own column stays there; see `rewritten_record`.
    apart = bool(original.get(columns.system))
    return [{role_key: words[m.role], text_key: m.content} for m in messages if not (apart and m.role is Role.SYSTEM)]


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowProblem(f'"{name}" is {_kind(value)}; expected text')
    return value


def _turns(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = record.get(name)
    if isinstance(value, str):
        value = _json_list(value, name)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise RowProblem(f'"{name}" is {_kind(value)}; expected a list of objects, one for each turn')
    return value


def _json_list(text: str, name: str) -> list[Any]:
    """A list that a CSV cell holds as JSON."""
    try:
        value = parse_json(text)
    except NotJson as error:
        raise RowProblem(f'"{name}" is text that is not JSON ({error}); expected a list of turns') from None
    if not isinstance(value, list):
        raise RowProblem(f'"{name}" is {_kind(value)}; expected a list of turns')
    return value


def _kind(value: object) -> str:
    """What a value is, in words of JSON."""
    if value is None:
        return "missing or null"
    words = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return words.get(type(value), type(value).__name__)
