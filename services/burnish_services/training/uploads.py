"""Takes up an uploaded file: the messages of one UploadData call, checked and stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from burnish.api.training.v1 import training_pb2
from burnish_services.runtime.errors import InvalidRequest
from burnish_services.training.core import is_digest
from burnish_services.training.data_store import DataStore, Incoming, StoredFile


async def take_up(messages: AsyncIterator[training_pb2.UploadDataRequest], store: DataStore) -> StoredFile:
    """The stored file; nothing stays where this does not return. Raises InvalidRequest, RunError."""
    incoming = store.receive("the upload")
    try:
        expected = await _write(messages, incoming)
        return await asyncio.to_thread(incoming.keep, expected)
    finally:
        # A call that ends is cancelled more than once, and this must happen nevertheless.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, incoming.close))


async def _write(messages: AsyncIterator[training_pb2.UploadDataRequest], incoming: Incoming) -> str:
    """Writes all chunks; returns the digest that they should have, empty where none was told."""
    expected, number, ended = "", 0, False
    async for message in messages:
        number += 1
        if ended:
            raise InvalidRequest(
                "BAD_UPLOAD",
                f"message {number} of the upload comes after one with last = true; expected none after that",
            )
        if message.digest and number > 1:
            raise InvalidRequest(
                "BAD_UPLOAD", f"message {number} of the upload has a digest; expected one in the first message only"
            )
        if number == 1:
            expected = message.digest
            if expected and not is_digest(expected):
                raise InvalidRequest(
                    "BAD_UPLOAD",
                    f"digest is {expected[:128]!r}, expected sha256: and 64 lower-case hexadecimal digits, or nothing",
                    field="digest",
                )
            if expected:
                await asyncio.to_thread(incoming.announce, expected)
        await asyncio.to_thread(incoming.write, message.chunk)
        ended = message.last
    if not ended:
        # gRPC tells a client that went away and one that has said all in the same way.
        raise InvalidRequest(
            "BAD_UPLOAD",
            f"the upload ended after {number} messages without one marked `last`, which was expected: it was cut off",
        )
    return expected
