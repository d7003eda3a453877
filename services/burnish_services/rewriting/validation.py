"""What a rewrite must satisfy before it leaves, and how the new prompt is found in a reply. Pure.

Published code takes whatever follows its marker, and the whole garbage where the marker is missing. Here a
reply is read forgivingly and then checked; what fails is rejected with one of a few named reasons, and tried
again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from burnish_services.rewriting.language import language_change
from burnish_services.rewriting.words import OwnWords, at_least_similar, runs, words

MARKER = "NEW PROMPT:"


class Rejection(StrEnum):
    """Why an attempt is rejected; the words of the proto's enum."""

    NO_MARKER = "NO_MARKER"
    EMPTY = "EMPTY"
    TOO_SHORT = "TOO_SHORT"
    TOO_LONG = "TOO_LONG"
    TRUNCATED = "TRUNCATED"
    LEAKED = "LEAKED"
    COPY = "COPY"
    LANGUAGE = "LANGUAGE"
    REFUSAL = "REFUSAL"
    DEGENERATE = "DEGENERATE"


class Rejected(Exception):
    """An attempt does not pass; the message is the detail for people."""

    def __init__(self, rejection: Rejection, detail: str) -> None:
        super().__init__(detail)
        self.rejection = rejection
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds on a rewrite; meanings and defaults as in rewriting.proto."""

    min_prompt_chars: int = 10
    max_prompt_chars: int = 4000
    min_response_chars: int = 1
    max_response_chars: int = 16000
    max_similarity: float = 0.95
    allow_language_change: bool = False


@dataclass(frozen=True, slots=True)
class Original:
    """What a new prompt is compared with: the old prompt, its neighbours, and the words that are ours."""

    prompt: str
    neighbors: tuple[str, ...] = ()
    own_words: OwnWords = field(default_factory=OwnWords)


# The marker where a line begins with it, however the model decorates it, and as a last resort anywhere in a
# line.
_LINE_MARKER = re.compile(
    r"^[\s#>*_`\-\d.()]*(?:(?:final|rewritten|my|the|your|a)\s+)*new\s+prompt[*_`\s]*(?:[:：][*_`]*|$)",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE_MARKER = re.compile(r"new\s+prompt[*_`\s]*[:：][*_`]*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "„": "“", "「": "」"}
_MARKERS = (
    ("the marker", re.compile(r"\bnew\s+prompt\s*[:：]", re.IGNORECASE)),
    ("a chat marker", re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|</?s>", re.IGNORECASE)),
)
_TO_FILL_IN = (
    r"\[(?:insert|your|enter|add|specify|name of|topic|placeholder)\b[^\]\n]{0,60}\]"
    r"|<(?:insert|your|enter|new prompt|the new|placeholder)\b[^>\n]{0,60}>|\blorem ipsum\b"
)
_PLACEHOLDER = re.compile(rf"{_TO_FILL_IN}|\{{\{{[^}}\n]{{0,60}}\}}\}}", re.IGNORECASE)
# Double braces say nothing against an answer: JSX, Jinja, Vue and the workflows of GitHub are full of them, and not
# every model fences its code.
_ANSWER_PLACEHOLDER = re.compile(_TO_FILL_IN, re.IGNORECASE)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_CANNOT = r"(?:can['’]?t|cannot|can not|won['’]?t|will not|(?:am |['’]m )?(?:unable|not able) to)"
_HELP = r"(?:assist|help(?! but (?!i\b))|answer|provide|fulfil|fulfill|comply|create|write|generate|do|discuss|give)\b"
_REFUSAL = re.compile(
    rf"^\W*(?:(?:i['’]m|i am) (?:\w+ )?sorry\b.{{0,40}}?\b{_CANNOT}"
    rf"|(?:(?:sorry|apologies|unfortunately)\W+(?:but )?)?i ?{_CANNOT} {_HELP}"
    # In the first person: a prompt may ask an AI ethicist why we cannot.
    rf"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b.{{0,60}}?\bi\b(?: \w+)? ?"
    rf"(?:{_CANNOT}|don['’]t|do not))",
    re.IGNORECASE | re.DOTALL,
)
_LEAST_WORDS_FOR_REPETITION = 40
_LEAST_DISTINCT_SHARE = 0.4  # of runs of four words
_MOST_EQUAL_LINES = 4
_MOST_EQUAL_WORDS = 8  # in a row
_LONGEST_REMARK = 300  # characters
# But of what rules and bars are drawn with, in text and in comments of code.
_CHARACTER_RUN = re.compile(r"([^\s\-=_.*#~/\\+|^%·•\u2010-\u2015\u2026\u2500-\u25ff])\1{39,}")


def check_prompt(reply: str, finish_reason: str, original: Original, rules: Rules) -> str:
    """The new prompt in the reply to the first call. Raises Rejected."""
    if finish_reason == "length":
        raise Rejected(Rejection.TRUNCATED, "the reply was cut off at max_tokens")
    prompt = find_prompt(reply)
    if prompt is None:
        raise Rejected(Rejection.NO_MARKER, f"the reply has no line {MARKER!r}")
    _check_length("prompt", prompt, rules.min_prompt_chars, rules.max_prompt_chars)
    _check_refusal("prompt", prompt)
    _check_leaks("prompt", prompt, original)
    _check_placeholder("prompt", _PLACEHOLDER.search(prompt), original)
    _check_degenerate("prompt", prompt)
    _check_copy(prompt, original, rules.max_similarity)
    if not rules.allow_language_change and (change := language_change(original.prompt, prompt)):
        raise Rejected(Rejection.LANGUAGE, change)
    return prompt


def check_response(reply: str, finish_reason: str, prompt: str, original: Original, rules: Rules) -> str:
    """The answer to the new prompt, from the reply to the second call. Raises Rejected."""
    if finish_reason == "length":
        raise Rejected(Rejection.TRUNCATED, "the answer was cut off at max_tokens")
    response = reply.strip()
    _check_length("answer", response, rules.min_response_chars, rules.max_response_chars)
    _check_refusal("answer", response)
    _check_leaks("answer", response, original)
    _check_placeholder("answer", _ANSWER_PLACEHOLDER.search(_CODE.sub(" ", response)), original)
    _check_degenerate("answer", response)
    if words(response) == words(prompt):
        raise Rejected(Rejection.COPY, "the answer only repeats the prompt")
    return response


def find_prompt(reply: str) -> str | None:
    """The text after the last marker, without a pair of quotes around it; None where there is no marker."""
    found = list(_LINE_MARKER.finditer(reply)) or list(_INLINE_MARKER.finditer(reply))
    if not found:
        return None
    return unquote(reply[found[-1].end() :].strip())


def lead_in_after(reply: str, finish_reason: str) -> str:
    """What the next attempt's reply begins with: nothing where this one has a marker, else the marker, after this
    reply where it is the short remark that was asked for. Small models tend to stop after that remark."""
    if find_prompt(reply) is not None:
        return ""
    remark = reply.strip()
    short = finish_reason == "stop" and len(remark) <= _LONGEST_REMARK and "\n" not in remark
    return f"{remark}\n{MARKER}" if short and remark else MARKER


def unquote(text: str) -> str:
    """`text` without one pair of quotes (and emphasis) around all of it."""
    if text.count("**") == 2 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    if len(text) >= 2 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def _check_length(what: str, text: str, least: int, most: int) -> None:
    if not text:
        raise Rejected(Rejection.EMPTY, f"the {what} is empty")
    if len(text) < least:
        raise Rejected(Rejection.TOO_SHORT, f"the {what} has {len(text)} characters, at least {least} expected")
    if len(text) > most:
        raise Rejected(Rejection.TOO_LONG, f"the {what} has {len(text)} characters, at most {most} expected")


def _check_refusal(what: str, text: str) -> None:
    if _REFUSAL.search(text[:200]):
        raise Rejected(Rejection.REFUSAL, f"the {what} refuses: {text[:80]!r}")


def _check_leaks(what: str, text: str, original: Original) -> None:
    material = _material(original)
    for name, pattern in _MARKERS:
        # What the material itself has may stay.
        if (found := pattern.search(text)) and not pattern.search(material):
            raise Rejected(Rejection.LEAKED, f"the {what} contains {name}: {found.group()!r}")
    if (ours := original.own_words.found_in(text, material)) is not None:
        raise Rejected(Rejection.LEAKED, f"the {what} repeats our instructions: {ours!r}")


def _check_placeholder(what: str, found: re.Match[str] | None, original: Original) -> None:
    # A template to fill in makes another one.
    if found is not None and not _PLACEHOLDER.search(_material(original)):
        raise Rejected(Rejection.LEAKED, f"the {what} contains a placeholder: {found.group()!r}")


def _material(original: Original) -> str:
    return "\n".join([original.prompt, *original.neighbors])


def _check_copy(prompt: str, original: Original, most: float) -> None:
    new = words(prompt)
    for name, old in [("the old prompt", original.prompt), *(("a neighbour", text) for text in original.neighbors)]:
        if (ratio := at_least_similar(new, words(old), most)) is not None:
            raise Rejected(
                Rejection.COPY, f"the prompt is a copy of {name}: similarity {ratio:.2f}, below {most} expected"
            )


def _check_degenerate(what: str, text: str) -> None:
    if (why := repetition(text)) is not None:
        raise Rejected(Rejection.DEGENERATE, f"the {what} repeats itself: {why}")


def repetition(text: str) -> str | None:
    """How a text repeats itself without end, in words; None where it does not."""
    if (run := _CHARACTER_RUN.search(text)) is not None:
        return f"{run.group(1)!r} {len(run.group())} times in a row"
    lines = [line.strip() for line in text.splitlines() if len(words(line)) >= 3]
    for line in set(lines):
        if (count := lines.count(line)) > _MOST_EQUAL_LINES:
            return f"the line {line[:40]!r} {count} times"
    text_words = words(text)
    if (word := _long_run(text_words)) is not None:
        return f"the word {word!r} more than {_MOST_EQUAL_WORDS} times in a row"
    if len(text_words) >= _LEAST_WORDS_FOR_REPETITION:
        fours = list(runs(text_words, 4))
        share = len(set(fours)) / len(fours)
        if share < _LEAST_DISTINCT_SHARE:
            return f"only {share:.0%} of its runs of four words are different ones"
    return None


def _long_run(text_words: Sequence[str]) -> str | None:
    length = 1
    for before, word in pairwise(text_words):
        length = length + 1 if word == before and not word.isdigit() else 1
        if length > _MOST_EQUAL_WORDS:
            return word
    return None
