"""What the fake engine says: ratings to judges' prompts, rewrites to rewriters' prompts, short answers to the rest.

Pure: text in, text out, the choice made by a digest. About three replies in a hundred are malformed on purpose, so
that whoever parses replies meets such ones in every test. Prompts are recognised by what they ask for ("rate … 10",
"write MARKER and after it only"), not by whose they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_JUDGE = re.compile(r"\brat(?:e|ing)\b[^\n]*\b10\b", re.IGNORECASE)
_REWRITE = re.compile(r"\bwrite (\S[^\n]{0,60}?) and after it only\b", re.IGNORECASE)
# A worked example may come first, as earlier turns; what is asked is asked in the last one.
_LAST_TURN = re.compile(r"\A.*^user$", re.MULTILINE | re.DOTALL)
# Where the material that a prompt shows begins and ends, as far as one can tell.
_MATERIAL_BEGINS = re.compile(r"^(?:Instruction:|#+ Instruction|Here are[^\n]*:)$", re.MULTILINE)
_MATERIAL_ENDS = re.compile(r"^(?:Rate the |First say |Write one more |Give a )", re.MULTILINE)
_RESPONSE = re.compile(r"^#+ Response$", re.MULTILINE)
_ROLES = frozenset({"assistant", "human", "instruction", "response", "system", "user"})
_WORD = re.compile(r"[^\W\d_]{3,}")
_MALFORMED_SHARE = 3  # in a hundred

_OPENINGS = ("Explain in simple words", "Describe with one example", "Write a short note on", "List three facts about")
_SENTENCES = (
    "The short answer is that {0} and {1} belong together.",
    "To see why, think of {0} first, and then of how {1} follows from it.",
    "A good example of {1} is found wherever {0} matters.",
    "In practice {0} takes some care, while {1} is easily done.",
    "In summary, {0} is the main point here.",
)


def reply(prompt: str, choice: bytes, skill: float) -> str:
    """The reply to a rendered prompt. `choice` (at least 16 bytes) stands for the weights, the prompt and the seed."""
    prompt = _LAST_TURN.sub("", prompt)
    malformed = choice[0] * 100 // 256 < _MALFORMED_SHARE
    if _JUDGE.search(prompt):
        return _rating(_material(prompt), choice, skill, malformed)
    marker = _REWRITE.search(prompt)
    if marker is not None:
        return _rewrite(_material(prompt), marker.group(1), choice, malformed)
    return _answer(_topics(_material(prompt)), choice)


def _material(prompt: str) -> str:
    """The text that a prompt is about, without our instructions; all of it where that cannot be told."""
    begin = _MATERIAL_BEGINS.search(prompt)
    end = list(_MATERIAL_ENDS.finditer(prompt))
    return prompt[begin.end() if begin else 0 : end[-1].start() if end else len(prompt)]


def _rating(material: str, choice: bytes, skill: float, malformed: bool) -> str:
    if malformed:
        return "I would rather not put a number on this."
    # Mostly a property of the material, so that the same sample is found poor again and again.
    opinion = hashlib.sha256(" ".join(sorted(set(_topics(material)))).encode()).digest()
    value = 6.0 + 2.0 * opinion[0] / 255 + choice[1] / 255 + skill - _flaws(material)
    return f"{min(9.5, max(0.5, value)):.1f}. It says what it means, though not everything it could."


def _flaws(material: str) -> float:
    """Points off for what can be seen without understanding: hardly any words, no end, nothing to do with the task."""
    parts = _RESPONSE.split(material)
    last = parts[-1].strip()
    words = _WORD.findall(last.lower())
    points = 2.0 if len(words) < 4 else 0.0
    points += 1.0 if last and last[-1].isalnum() and len(words) > 12 else 0.0
    points += 1.5 if len(parts) > 1 and len(words) > 8 and not set(words) & set(_topics(parts[0])) else 0.0
    return points + (1.5 if len(words) > 20 and len(set(words)) < len(words) / 3 else 0.0)


def _rewrite(material: str, marker: str, choice: bytes, malformed: bool) -> str:
    topics = _pick(_topics(material), choice[3:8])
    if sum(word.isascii() for word in topics) * 2 < len(topics):
        new_prompt = " ".join(topics)  # in the material's own script
    else:
        new_prompt = f"{_OPENINGS[choice[2] % len(_OPENINGS)]} {', '.join(topics)}."
    complaint = "It asks for several things at once."
    return f"{complaint}\n{new_prompt}" if malformed else f"{complaint}\n{marker} {new_prompt}"


def _answer(topics: Sequence[str], choice: bytes) -> str:
    words = _pick(topics, choice[5:8]) * 2
    order = sorted(range(len(_SENTENCES)), key=lambda index: choice[8 + index])
    chosen = sorted(order[: 2 + choice[4] % 3])
    return " ".join(_SENTENCES[index].format(words[0], words[1]) for index in chosen)


def _topics(text: str) -> list[str]:
    """The longer half of the text's words, each once, in order."""
    words = [word for word in dict.fromkeys(_WORD.findall(text.lower())) if word not in _ROLES]
    if not words:
        return ["nothing"]
    middle = sorted(len(word) for word in words)[len(words) // 2]
    return [word for word in words if len(word) >= middle]


def _pick(words: Sequence[str], choice: bytes) -> list[str]:
    """Some of the words, each once, at least one."""
    return list(dict.fromkeys(words[byte % len(words)] for byte in choice))
