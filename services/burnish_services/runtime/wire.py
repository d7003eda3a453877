"""Between burnish.api.common.v1 and plain values: what every service's servicer converts in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from burnish.api.common.v1 import common_pb2
from burnish_services.engine.base import Sampling
from burnish_services.engine.hosting import ModelVersion
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.errors import InvalidRequest

_ROLE_WORDS = {
    common_pb2.ROLE_SYSTEM: "system",
    common_pb2.ROLE_USER: "user",
    common_pb2.ROLE_ASSISTANT: "assistant",
}
_MAX_ID_BYTES = 256


def check_batch(items: Sized, ids: Iterable[str], max_items: int, what: str = "samples") -> None:
    """Refuses a batch that is empty, too large, or whose ids are missing, too long or not unique. `ids`: of `items`;
    asked for only where those are not too many. Raises InvalidRequest."""
    if not items:
        raise InvalidRequest("EMPTY_BATCH", f"the request has no {what}; expected 1 to {max_items}", field=what)
    if len(items) > max_items:
        raise InvalidRequest(
            "TOO_MANY_ITEMS",
            f"the request has {len(items)} {what}; expected 1 to {max_items} (Limits.max_items of this server): split"
            " it",
            field=what,
        )
    seen: set[str] = set()
    for position, item_id in enumerate(ids):
        if not 1 <= len(item_id.encode()) <= _MAX_ID_BYTES:
            raise InvalidRequest(
                "BAD_ID",
                f"the id of {what}[{position}] has {len(item_id.encode())} bytes; expected 1 to {_MAX_ID_BYTES}",
                field=f"{what}[{position}]",
            )
        if item_id in seen:
            raise InvalidRequest(
                "DUPLICATE_ID",
                f"id {item_id!r} stands more than once in {what}; expected ids that are unique in a request",
                field=f"{what}[{position}]",
            )
        seen.add(item_id)


def require_uri(model: common_pb2.ModelRef) -> None:
    """Raises InvalidRequest unless the model is named by a uri."""
    if not model.uri:
        raise InvalidRequest(
            "NO_MODEL", "model.uri is empty; expected a path or file:// URI of a model directory", field="model.uri"
        )


def messages(given: Sequence[common_pb2.Message]) -> list[ChatMessage]:
    """Turns. A role that is not set becomes an empty word, which validation refuses as BAD_ROLES."""
    return [ChatMessage(_ROLE_WORDS.get(message.role, ""), message.content) for message in given]


def sample_message(sample_id: str, messages: Sequence[ChatMessage]) -> common_pb2.Sample:
    """The proto of a conversation."""
    roles = {word: role for role, word in _ROLE_WORDS.items()}
    return common_pb2.Sample(
        id=sample_id,
        messages=[common_pb2.Message(role=roles[m.role], content=m.content) for m in messages],
    )


def resolve_sampling(given: common_pb2.SamplingParameters, defaults: Sampling) -> Sampling:
    """`given` with unset fields taken from `defaults`. Raises InvalidRequest for a value out of range."""
    resolved = Sampling(
        temperature=given.temperature if given.HasField("temperature") else defaults.temperature,
        top_p=given.top_p if given.HasField("top_p") else defaults.top_p,
        top_k=given.top_k if given.HasField("top_k") else defaults.top_k,
        max_tokens=given.max_tokens if given.HasField("max_tokens") else defaults.max_tokens,
        repetition_penalty=(
            given.repetition_penalty if given.HasField("repetition_penalty") else defaults.repetition_penalty
        ),
        seed=given.seed if given.HasField("seed") else defaults.seed,
        stop=defaults.stop,
    )
    _check("temperature", resolved.temperature, 0 <= resolved.temperature <= 2, "[0, 2]")
    _check("top_p", resolved.top_p, 0 < resolved.top_p <= 1, "(0, 1]")
    _check("top_k", resolved.top_k, resolved.top_k >= 0, "[0, ∞)")
    _check("max_tokens", resolved.max_tokens, resolved.max_tokens >= 1, "[1, ∞)")
    _check("repetition_penalty", resolved.repetition_penalty, 1 <= resolved.repetition_penalty <= 2, "[1, 2]")
    return resolved


def _check(field: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise InvalidRequest(
            "BAD_SAMPLING", f"sampling.{field} is {value}; expected a value in {expected}", field=f"sampling.{field}"
        )


def model_version(version: ModelVersion) -> common_pb2.ModelVersion:
    """The weights that a reply was made with."""
    return common_pb2.ModelVersion(
        uri=version.uri,
        digest=version.digest,
        engine=version.engine,
        dtype=version.dtype,
        chat_template_digest=version.chat_template_digest,
    )


def server_info(
    *,
    version: str,
    engine: str,
    held: ModelVersion | None,
    max_items: int,
    process: ServerSettings,
    max_concurrent_requests: int,
    max_tokens_in_flight: int = 0,
    max_concurrent_streams: int = 0,
    notes: Sequence[str] = (),
) -> common_pb2.ServerInfo:
    """What GetInfo answers. `max_tokens_in_flight` 0: not limited. `process` has the limits of all services
    together."""
    return common_pb2.ServerInfo(
        version=version,
        engine=engine,
        model=None if held is None else model_version(held),
        limits=common_pb2.Limits(
            max_items=max_items,
            max_message_bytes=process.max_message_bytes,
            max_sequence_tokens=0 if held is None else held.max_model_len,
            max_concurrent_requests=max_concurrent_requests,
            max_tokens_in_flight=max_tokens_in_flight,
            max_bytes_in_flight=process.max_bytes_in_flight,
            max_concurrent_streams=max_concurrent_streams,
        ),
        notes=notes,
    )


def timing(record: CallRecord) -> common_pb2.Timing:
    """Where the time of the call went so far."""
    return common_pb2.Timing(
        queue=duration(record.queue_seconds),
        engine=duration(record.engine_seconds),
        model_swap=duration(record.swap_seconds),
        prompt_tokens=record.prompt_tokens,
        generated_tokens=record.generated_tokens,
    )


def duration(seconds: float | None) -> Duration | None:
    """A length of time as replies state it; None for None."""
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(max(0, round(seconds * 1e9)))
    return message


def timestamp(seconds: float | None) -> Timestamp | None:
    """A moment, in seconds since 1970, as replies state it; None for None."""
    if seconds is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))  # a float has no more
    return message
