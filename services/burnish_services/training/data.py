"""Training data: from a JSONL file to tokens with their response tokens marked. Imports no torch.

Owns what counts as a sample and how those left out are named; not the mask (`engine/chat.py`, the very function that
scoring uses) and not batches (`sft.py`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish_services.engine.chat import SampleError, TokenizedSample, tokenize_sample
from burnish_services.engine.places import NotLocal, OutsideRoots, Roots, local_path
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.training.state import RunError

NOT_A_SAMPLE = "NOT_A_SAMPLE"
ZERO_WEIGHT = "ZERO_WEIGHT"
_MAX_NAME = 256  # characters of an id that are repeated in results and messages


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """A sample as tokens; `name` is its id, or `line N`. `weight` (> 0) is what each of its response tokens counts."""

    name: str
    tokens: TokenizedSample
    weight: float = 1.0

    @property
    def weighted_tokens(self) -> float:
        """What its response tokens count together."""
        return self.weight * self.tokens.num_response_tokens


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that is left out, and why."""

    name: str
    reason: str  # a reason of engine/chat.py, NOT_A_SAMPLE or ZERO_WEIGHT
    message: str


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A file's samples, in its order."""

    samples: list[TrainingSample]
    skipped: list[Skipped]
    digest: str  # of the file's bytes: "sha256:" + 64 hex

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(sample.tokens.ids) for sample in self.samples]


def resolve_file(uri: str, field: str, roots: Roots) -> Path:
    """The file in `roots` that a path or `file://` URI names, absolute. Raises RunError for anything else."""
    try:
        path = roots.check_readable(local_path(uri))
        found = path.is_file()
    except OutsideRoots as error:
        raise RunError("PERMISSION_DENIED", "PATH_NOT_ALLOWED", f"{field} {error}, or upload the data") from None
    except NotLocal as error:
        raise RunError("NOT_FOUND", "DATA_NOT_FOUND", f"{field} {error}") from None
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            "NOT_FOUND",
            "DATA_NOT_FOUND",
            f"{field} {uri!r} cannot be looked at: {reason}; expected a file that this server can read",
        ) from None
    if not found:
        raise RunError(
            "NOT_FOUND",
            "DATA_NOT_FOUND",
            f"no file at {field} {uri!r}; expected a JSONL file that the training service can read by that path, or "
            "the URI of an upload (UploadData, client.training.upload)",
        )
    return path


def file_digest(path: Path) -> str:
    """`sha256:` and 64 hexadecimal digits over the file's bytes; blocking, about 1 s per gigabyte."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, expected: str, field: str) -> str:
    """The file's digest. Raises RunError where it is not `expected` (empty: anything goes)."""
    found = file_digest(path)
    if expected and found != expected:
        raise RunError(
            "FAILED_PRECONDITION",
            "DATA_DIGEST_MISMATCH",
            f"{field}: {path} has digest {found}, expected {expected}: its content is not what the run was made for",
        )
    return found


def read_data(path: Path, tokenizer: ChatTokenizer, max_tokens: int) -> TrainingData:
    """Reads and tokenises a file; samples that are none, or longer than `max_tokens`, are left out and named.
    Raises OSError; RunError where no sample is left."""
    samples: list[TrainingSample] = []
    skipped: list[Skipped] = []
    content = path.read_bytes()
    for number, line in lines_of(content):
        name = f"line {number}"
        try:
            value = parse_object(line)
            name = sample_name(value) or name
            weight, messages = parse_weight(value), parse_messages(value)
            samples.append(TrainingSample(name, tokenize_sample(tokenizer, messages, max_tokens=max_tokens), weight))
        except SampleError as error:
            skipped.append(Skipped(name, error.reason, error.message))
    if not samples:
        raise RunError("INVALID_ARGUMENT", "NO_DATA", _nothing_left(path, skipped))
    return TrainingData(samples, skipped, "sha256:" + hashlib.sha256(content).hexdigest())


def lines_of(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number, from 1."""
    # Not str.splitlines: text may hold U+2028 and the like unescaped.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object in a line. Raises SampleError."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SampleError(NOT_A_SAMPLE, f"not JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise SampleError(NOT_A_SAMPLE, f"a JSON {type(value).__name__}, expected an object with `messages`")
    return value


def sample_name(value: dict[str, Any]) -> str:
    """The sample's own name, as far as it can be told to anybody: at most 256 characters, all of which UTF-8 has. Empty
    where it has none."""
    name = value.get("id")
    return "" if name is None else str(name)[:_MAX_NAME].encode(errors="replace").decode()


def parse_weight(value: dict[str, Any]) -> float:
    """What the sample counts, 1 where it does not say. Raises SampleError, also for 0."""
    weight = value.get("weight", 1.0)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= sys.float_info.max:
        raise SampleError(NOT_A_SAMPLE, f"weight is {str(weight)[:64]}, expected a number >= 0")
    if weight == 0:
        raise SampleError(ZERO_WEIGHT, "weight is 0: there is nothing to learn from it")
    return float(weight)


def parse_messages(value: dict[str, Any]) -> list[ChatMessage]:
    """The turns of a sample's object. Raises SampleError."""
    turns = value.get("messages")
    if not isinstance(turns, list):
        raise SampleError(NOT_A_SAMPLE, "expected a list `messages` of {role, content}")
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict) or not all(_is_text(turn.get(key)) for key in ("role", "content")):
            raise SampleError(NOT_A_SAMPLE, f"messages[{index}]: expected role and content, both strings of Unicode")
    return [ChatMessage(turn["role"], turn["content"]) for turn in turns]


def _is_text(value: object) -> bool:
    """False for strings with lone surrogates, too: JSON can write them, no tokenizer can read them."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nothing_left(path: Path, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{path} has no samples; expected one JSON object a line with `messages`"
    counts = Counter(skip.reason for skip in skipped)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    first = skipped[0]
    return (
        f"none of the {len(skipped)} samples in {path} can be trained on ({reasons}); the first is {first.name!r}: "
        f"{first.message}"
    )
