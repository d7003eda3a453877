"""Splits a batch into requests that a server accepts, sends them within a window, and joins what comes back.

Knows nothing of any service but that items have ids and sizes. Results come back in the order of the items, exactly
one per item. An item that cannot be sent at all (larger than a message may be, or text that has no UTF-8 form) gets a
failed ItemStatus here, as it would from the server: one bad item never fails its batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.rpc import code_pb2

from burnish._channel import ServiceLink, TooMuchAtOnce, divisible
from burnish._errors import MessageTooLarge, UsageError, VersionMismatch
from burnish._types import ItemStatus, Limits, ModelVersion, Sample, Timing

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# Upper bounds of what the wire adds to the text of a message and of a sample, in bytes.
_PER_MESSAGE = 16
_PER_SAMPLE = 16
# Left free in every request for the model, the sampling parameters and gRPC's own framing.
_REQUEST_OVERHEAD = 16 * 1024


def sample_bytes(sample: Sample) -> int:
    """At least the bytes that a sample takes on the wire. Raises UnicodeEncodeError for text without a UTF-8 form."""
    text = sum(len(m.content.encode()) + _PER_MESSAGE for m in sample.messages)
    return text + len(sample.id.encode()) + _PER_SAMPLE


@dataclass(frozen=True, slots=True)
class Reply(Generic[ResultT]):
    """What the server said to one request: results in order, and under which model (and prompts) they were made."""

    model: ModelVersion
    results: tuple[ResultT, ...]
    timing: Timing
    prompts: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which items go together, by index, and which can't be sent."""

    batches: tuple[tuple[int, ...], ...]
    refused: dict[int, ItemStatus]


def plan(sizes: Sequence[int | ItemStatus], *, max_items: int, max_bytes: int) -> Plan:
    """Batches of at most `max_items` items and `max_bytes` bytes, of about the same number of items each, in order.

    A size that is an ItemStatus, or larger than a whole batch may be, is refused.
    """
    refused: dict[int, ItemStatus] = {}
    sendable: list[tuple[int, int]] = []
    for index, size in enumerate(sizes):
        if isinstance(size, ItemStatus):
            refused[index] = size
        elif size > max_bytes:
            refused[index] = _too_large(size, max_bytes)
        else:
            sendable.append((index, size))
    requests = -(-len(sendable) // max_items)
    share = -(-len(sendable) // requests) if requests else 0
    batches: list[list[int]] = []
    room = 0
    for index, size in sendable:
        if not batches or len(batches[-1]) == share or size > room:
            batches.append([])
            room = max_bytes
        batches[-1].append(index)
        room -= size
    return Plan(tuple(tuple(batch) for batch in batches), refused)


def _too_large(size: int, limit: int) -> ItemStatus:
    return ItemStatus(
        code_pb2.OUT_OF_RANGE,
        "TOO_LARGE",
        f"takes {size} bytes, one message may have {limit}; shorten it, or raise max_message_bytes on both sides",
    )


def measure(items: Sequence[ItemT], size: Callable[[ItemT], int]) -> list[int | ItemStatus]:
    """The size of each item, or why it has none."""
    measured: list[int | ItemStatus] = []
    for item in items:
        try:
            measured.append(size(item))
        except UnicodeEncodeError as error:
            message = f"text has no UTF-8 form ({error.reason} at {error.start}); remove lone surrogates"
            measured.append(ItemStatus(code_pb2.INVALID_ARGUMENT, "BAD_TEXT", message))
    return measured


def check_ids(ids: Sequence[str], call: str) -> None:
    """Raises UsageError where there is nothing to send, or where two items have the same id."""
    if not ids:
        raise UsageError(f"{call} got no samples; expected at least one")
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repr(name) for name in repeated[:5])
        raise UsageError(f"{call} got {len(repeated)} ids more than once ({shown}); ids must be unique within a call")


@dataclass(frozen=True, slots=True)
class BatchCall(Generic[ItemT, ResultT]):
    """One kind of batched call: what its items are, how one request is made, and how results are named.

    `size` is an upper bound in bytes, `refuse` makes the result of an item that was not sent, `version` says which
    model would have served where nothing could be sent at all, and `prompts` by which prompts, for calls that have any.
    """

    name: str
    item_id: Callable[[ItemT], str]
    size: Callable[[ItemT], int]
    send: Callable[[Sequence[ItemT]], Awaitable[Reply[ResultT]]]
    result_id: Callable[[ResultT], str]
    refuse: Callable[[str, ItemStatus], ResultT]
    version: Callable[[], Awaitable[ModelVersion]]
    prompts: Callable[[], Awaitable[str]] | None = None


async def send_batches(
    link: ServiceLink,
    call: BatchCall[ItemT, ResultT],
    items: Sequence[ItemT],
    limits: Callable[[], Awaitable[Limits]],
) -> Reply[ResultT]:
    """The joined reply to all items. Raises the first ServiceError of any request, after ending the others."""
    ids = [call.item_id(item) for item in items]
    check_ids(ids, call.name)
    chosen = _plan_for(link, await limits(), measure(items, call.size))
    parts = await _gather([_send(link, call, [items[index] for index in batch]) for batch in chosen.batches])
    replies = [reply for part in parts for reply in part]
    if not replies:
        refusals = tuple(call.refuse(ids[index], chosen.refused[index]) for index in range(len(items)))
        prompts = "" if call.prompts is None else await call.prompts()
        return Reply(await call.version(), refusals, Timing(), prompts)
    _check_versions(link, call.name, replies)
    sent = iter(result for reply in replies for result in reply.results)
    results = tuple(
        call.refuse(name, chosen.refused[index]) if index in chosen.refused else next(sent)
        for index, name in enumerate(ids)
    )
    return Reply(replies[0].model, results, _total(replies), replies[0].prompts)


def _plan_for(link: ServiceLink, allowed: Limits, sizes: Sequence[int | ItemStatus]) -> Plan:
    """The plan within the server's limits and our own options; a limit of 0 was not stated."""
    items = (allowed.max_items, link.options.max_batch_items or 0, len(sizes))
    message = (allowed.max_message_bytes, link.options.max_message_bytes)
    return plan(
        sizes,
        max_items=min(n for n in items if n > 0),
        max_bytes=max(1, min(n for n in message if n > 0) - _REQUEST_OVERHEAD),
    )


async def _send(link: ServiceLink, call: BatchCall[ItemT, ResultT], batch: Sequence[ItemT]) -> list[Reply[ResultT]]:
    divisible.set(len(batch) > 1)
    try:
        async with link.window:
            reply = await call.send(batch)
    except (MessageTooLarge, TooMuchAtOnce):
        # Requests are planned by size, replies can't be: per-token log-probabilities and vectors take more. And what
        # else the service is doing nobody knows beforehand.
        if len(batch) == 1:
            raise
        middle = len(batch) // 2
        return [r for half in (batch[:middle], batch[middle:]) for r in await _send(link, call, half)]
    if [call.item_id(item) for item in batch] != [call.result_id(result) for result in reply.results]:
        raise link.malformed(
            call.name, f"asked about {len(batch)} items it told of {len(reply.results)}, or in another order"
        )
    return [reply]


async def _gather(parts: Sequence[Awaitable[ResultT]]) -> list[ResultT]:
    """Results of all parts; the first failure cancels the rest, waits for them, and is raised as it is."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _check_versions(link: ServiceLink, call: str, replies: Sequence[Reply[ResultT]]) -> None:
    made_with = {
        (r.model.digest, r.model.engine, r.model.dtype, r.model.chat_template_digest, r.prompts) for r in replies
    }
    if len(made_with) > 1:
        listed = "; ".join(sorted(" ".join(word or "-" for word in words) for words in made_with))
        mend = "Name the model, with its digest, in the call, and let all replicas run the same release"
        if len({(digest, engine, template, prompts) for digest, engine, _, template, prompts in made_with}) == 1:
            mend = (
                "They differ in the number format alone, which `--dtype auto` chooses by the machine that a replica is"
                " on: start all replicas with the same --dtype"
            )
        raise VersionMismatch(
            f"{link.service} service at {link.address}: the requests of one {call} were answered by different versions "
            f"({listed}). {mend}",
            service=link.service,
            address=link.address,
        )


def _total(replies: Sequence[Reply[ResultT]]) -> Timing:
    return Timing(
        queue_seconds=sum(r.timing.queue_seconds for r in replies),
        engine_seconds=sum(r.timing.engine_seconds for r in replies),
        model_swap_seconds=sum(r.timing.model_swap_seconds for r in replies),
        prompt_tokens=sum(r.timing.prompt_tokens for r in replies),
        generated_tokens=sum(r.timing.generated_tokens for r in replies),
    )
