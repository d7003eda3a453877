"""Between protobuf messages and the SDK's dataclasses: samples, models, sampling, status, info. No calls, no policy.

What only one service knows is converted in `_convert_replies.py`. Requests that protobuf refuses (a number out of
range, a wrong type) raise UsageError; replies that break the contract raise ValueError, which the callers turn into
MalformedReply with the service's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from burnish import _types as t
from burnish._errors import UsageError
from burnish._words import Words
from burnish.api.common.v1 import common_pb2 as pb
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2

ROLES = Words(pb.Role.DESCRIPTOR, t.Role)
DIMENSIONS = Words(scoring_pb2.Dimension.DESCRIPTOR, t.Dimension)
JUDGE_MODES = Words(scoring_pb2.JudgeMode.DESCRIPTOR, t.JudgeMode)
TOKEN_SPANS = Words(scoring_pb2.TokenSpan.DESCRIPTOR, t.TokenSpan)
TARGETS = Words(scoring_pb2.Target.DESCRIPTOR, t.Target)
STRATEGIES = Words(rewriting_pb2.Strategy.DESCRIPTOR, t.Strategy)
STATES = Words(training_pb2.State.DESCRIPTOR, t.RunState)

# What names a model in a call: a reference, the version of an earlier reply, or just where it is.
Model = t.ModelRef | t.ModelVersion | str | Path
ProtoT = TypeVar("ProtoT", bound=ProtoMessage)


# --- requests ---------------------------------------------------------------------------------------------------------


@contextmanager
def refused_as_usage(what: str) -> Iterator[None]:
    """Turns protobuf's refusal of a value into a UsageError that says where it was."""
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{what} cannot be sent: {error}") from error


def set_fields(message: ProtoT, source: Any, what: str) -> ProtoT:
    """Copies every field of a dataclass that is not None into the message's field of the same name."""
    for field in fields(source):
        value = getattr(source, field.name)
        if value is not None:
            with refused_as_usage(f"{what}.{field.name} = {value!r}"):
                setattr(message, field.name, value)
    return message


def set_options(message: ProtoMessage, options: Mapping[str, object], what: str) -> None:
    """Sets each option that is not None in the message's field of that name."""
    for name, value in options.items():
        if value is not None:
            with refused_as_usage(f"{what}: {name} = {value!r}"):
                setattr(message, name, value)


def model_to_proto(model: Model | None) -> pb.ModelRef:
    """The reference on the wire; None means whatever the service holds."""
    if model is None:
        return pb.ModelRef()
    if isinstance(model, t.ModelRef | t.ModelVersion):
        return pb.ModelRef(uri=model.uri, digest=model.digest)
    if isinstance(model, str | Path):
        return pb.ModelRef(uri=str(model))
    raise UsageError(f"model is a {type(model).__name__}; expected a path, a ModelRef or None")


def sampling_to_proto(sampling: t.Sampling | None) -> pb.SamplingParameters | None:
    """Sampling parameters on the wire; what is None stays unset."""
    return None if sampling is None else set_fields(pb.SamplingParameters(), sampling, "sampling")


def sample_to_proto(sample: t.Sample) -> pb.Sample:
    """A sample on the wire."""
    with refused_as_usage(f"sample {sample.id!r}"):
        return pb.Sample(id=sample.id, messages=[message_to_proto(message) for message in sample.messages])


def message_to_proto(message: t.Message) -> pb.Message:
    """A turn on the wire."""
    return pb.Message(role=ROLES.number(message.role), content=message.content)


def rewrite_item_to_proto(item: t.RewriteItem) -> rewriting_pb2.RewriteItem:
    """An item to rewrite on the wire."""
    return rewriting_pb2.RewriteItem(
        sample=sample_to_proto(item.sample), neighbors=[sample_to_proto(n) for n in item.neighbors]
    )


def rules_to_proto(rules: t.ValidationRules | None) -> rewriting_pb2.ValidationRules | None:
    """Validation rules on the wire; what is None stays unset."""
    return None if rules is None else set_fields(rewriting_pb2.ValidationRules(), rules, "rules")


def run_spec_to_proto(spec: t.RunSpec) -> training_pb2.RunSpec:
    """A run's specification on the wire."""
    with refused_as_usage("spec"):
        lora = None if spec.lora is None else training_pb2.Lora(**asdict(spec.lora))
        bilevel = None if spec.bilevel is None else training_pb2.BilevelSelection(**asdict(spec.bilevel))
        refinement = None if spec.refinement is None else training_pb2.SelfRefinement(**asdict(spec.refinement))
        return training_pb2.RunSpec(
            base_model=model_to_proto(spec.base_model),
            data_uri=str(spec.data_uri),
            data_digest=spec.data_digest,
            output_uri=str(spec.output_uri),
            hyperparameters=set_fields(training_pb2.Hyperparameters(), spec.hyperparameters, "hyperparameters"),
            eval_data_uri=str(spec.eval_data_uri),
            lora=lora,
            bilevel=bilevel,
            refinement=refinement,
        )


# --- replies ----------------------------------------------------------------------------------------------------------


def seconds(duration: Duration) -> float:
    """A duration as seconds."""
    return duration.seconds + duration.nanos / 1e9


def optional_time(message: ProtoMessage, field: str) -> datetime | None:
    """A timestamp field as an aware UTC datetime; None where it is unset."""
    return _time(getattr(message, field)) if message.HasField(field) else None


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def optional_float(message: ProtoMessage, field: str) -> float | None:
    """An optional number; None where it is unset."""
    return float(getattr(message, field)) if message.HasField(field) else None


def floats(packed: bytes) -> NDArray[np.float32] | None:
    """Packed little-endian float32 as a read-only array; None where nothing was sent."""
    return np.frombuffer(packed, dtype="<f4").astype(np.float32, copy=False) if packed else None


def ints(packed: bytes) -> NDArray[np.int32] | None:
    """Packed little-endian int32 as a read-only array; None where nothing was sent."""
    return np.frombuffer(packed, dtype="<i4").astype(np.int32, copy=False) if packed else None


def status_from_proto(status: pb.ItemStatus) -> t.ItemStatus:
    """An item's status."""
    return t.ItemStatus(status.code, status.reason, status.message, status.retryable)


def ref_from_proto(ref: pb.ModelRef) -> t.ModelRef:
    """A model reference."""
    return t.ModelRef(ref.uri, ref.digest)


def version_from_proto(version: pb.ModelVersion) -> t.ModelVersion:
    """The version that produced a reply."""
    return t.ModelVersion(version.uri, version.digest, version.engine, version.dtype, version.chat_template_digest)


def optional_version(message: ProtoMessage, field: str = "model") -> t.ModelVersion | None:
    """A version field; None where no weights are loaded yet."""
    return version_from_proto(getattr(message, field)) if message.HasField(field) else None


def required_version(message: ProtoMessage) -> t.ModelVersion:
    """The `model` of a reply. Raises ValueError where the server left it out."""
    version = optional_version(message)
    if version is None:
        raise ValueError("it does not say which model version it was made with")
    return version


def timing_from_proto(timing: pb.Timing) -> t.Timing:
    """Where the time went."""
    return t.Timing(
        seconds(timing.queue),
        seconds(timing.engine),
        seconds(timing.model_swap),
        timing.prompt_tokens,
        timing.generated_tokens,
    )


def limits_from_proto(limits: pb.Limits) -> t.Limits:
    """A server's limits."""
    return t.Limits(
        limits.max_items,
        limits.max_message_bytes,
        limits.max_sequence_tokens,
        limits.max_concurrent_requests,
        limits.max_tokens_in_flight,
        limits.max_bytes_in_flight,
        limits.max_concurrent_streams,
    )


def info_from_proto(info: pb.ServerInfo) -> t.ServerInfo:
    """What a server is."""
    return t.ServerInfo(
        info.version, info.engine, optional_version(info), limits_from_proto(info.limits), tuple(info.notes)
    )


def sample_from_proto(sample: pb.Sample) -> t.Sample:
    """A sample. Raises ValueError for an unknown role."""
    messages = tuple(t.Message(ROLES.word(m.role), m.content) for m in sample.messages)
    return t.Sample(sample.id, messages)


def numbers(words: Words[Any], chosen: Sequence[Any]) -> list[Any]:
    """Enum numbers of words, in their order."""
    return [words.number(word) for word in chosen]
