"""Data that is uploaded, over real gRPC: whole or not at all, from whoever, as often as they like."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from burnish import (
    AlreadyExists,
    AsyncClient,
    ClientOptions,
    InvalidRequest,
    ModelRef,
    NotFound,
    PreconditionFailed,
    RunSpec,
    UsageError,
)
from burnish.api.training.v1 import training_pb2 as pb
from burnish.api.training.v1 import training_pb2_grpc
from burnish_services.runtime.config import ServerSettings
from tests.service.support import failure_of
from tests.service.training_support import Client, client_of, sample, spec, worker_process, write_jsonl

SENT = [pb.UploadDataRequest(chunk=b'{"a":'), pb.UploadDataRequest(chunk=b" 1}\n\n{}", last=True)]
CONTENT = b'{"a": 1}\n\n{}'
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def sdk(client: Client) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client.server.address, options=ClientOptions(initial_backoff=0.01)) as opened:
        yield opened


def kept(settings: ServerSettings) -> list[str]:
    """Everything in the service's data folder."""
    folder = settings.state_dir / "training" / "data"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def with_data(base: Path, uri: str, **more: object) -> pb.RunSpec:
    message = spec(base, Path("unused"), **more)
    message.data_uri = uri
    return message


async def until_kept(settings: ServerSettings, count: int) -> None:
    for _ in range(500):
        if len(kept(settings)) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{kept(settings)}, expected {count}")


async def until_some_is_there(settings: ServerSettings) -> None:
    """Until something was written to disk."""
    folder = settings.state_dir / "training" / "data"
    for _ in range(500):
        if any(path.stat().st_size for path in folder.glob(".incoming-*")):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing has arrived")


async def test_an_upload_is_named_by_its_content(client: Client, settings: ServerSettings) -> None:
    reply = await client.stub.UploadData(iter(SENT))
    assert reply == pb.UploadDataResponse(uri=f"upload:{DIGEST}", digest=DIGEST, size_bytes=len(CONTENT), num_lines=2)
    again = [pb.UploadDataRequest(digest=DIGEST), *SENT]
    assert await client.stub.UploadData(iter(again)) == reply
    assert kept(settings) == [f"{DIGEST[7:]}.jsonl"]


@pytest.mark.parametrize(
    ("messages", "reason", "words"),
    [
        ([pb.UploadDataRequest(digest="sha256:" + 64 * "0"), *SENT], "DATA_DIGEST_MISMATCH", f"has digest {DIGEST}"),
        (SENT[:1], "BAD_UPLOAD", "without one marked `last`"),
        ([], "BAD_UPLOAD", "after 0 messages"),
        ([*SENT, SENT[0]], "BAD_UPLOAD", "message 3 of the upload comes after"),
        (
            [SENT[0], pb.UploadDataRequest(digest=DIGEST, last=True)],
            "BAD_UPLOAD",
            "message 2 of the upload has a digest",
        ),
        ([pb.UploadDataRequest(digest="abc", last=True)], "BAD_UPLOAD", "64 lower-case hexadecimal digits"),
    ],
)
async def test_an_upload_that_is_not_what_it_should_be_leaves_nothing(
    client: Client, settings: ServerSettings, messages: Sequence[pb.UploadDataRequest], reason: str, words: str
) -> None:
    failure = await failure_of(client.stub.UploadData(iter(messages)))
    assert (failure.reason, failure.retryable) == (reason, False)
    assert words in failure.message
    assert kept(settings) == []


async def test_an_upload_that_is_too_large_is_refused_before_it_is_all_there(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_MAX_DATA_BYTES", "1000000")
    async with client_of(settings) as client:
        async with AsyncClient(client.server.address) as sdk:
            with pytest.raises(InvalidRequest, match=r"more than 1,000,000 bytes.*_TRAINING_MAX_DATA_BYTES") as error:
                await sdk.training.upload(b"x" * 20_000_000)
        assert error.value.reason == "DATA_TOO_LARGE"
        assert kept(settings) == []


async def test_an_upload_that_breaks_off_leaves_nothing(client: Client, settings: ServerSettings) -> None:
    for end in ("cancelled", "disconnected"):
        async with grpc.aio.insecure_channel(client.server.address) as channel:
            call = training_pb2_grpc.TrainingServiceStub(channel).UploadData()
            await call.write(pb.UploadDataRequest(chunk=b"x" * 100_000))
            await until_some_is_there(settings)
            if end == "cancelled":
                call.cancel()
            else:
                await channel.close()
            await until_kept(settings, 0)
    for moment in range(40):
        call = client.stub.UploadData()
        await call.write(pb.UploadDataRequest(chunk=b"x" * 100_000))
        await asyncio.sleep(moment / 10_000)
        call.cancel()
    # Whatever moment it was; one that comes whole tells that those before it are over.
    await asyncio.sleep(0.2)
    await client.stub.UploadData(iter(SENT))
    await until_kept(settings, 1)


async def test_a_server_that_stops_ends_an_upload_so_that_it_is_sent_again(
    settings: ServerSettings, base: Path, data: Path
) -> None:
    async with client_of(settings) as client:
        call = client.stub.UploadData()
        await call.write(pb.UploadDataRequest(chunk=b"x" * 100_000))
        await until_some_is_there(settings)
        stopping = asyncio.ensure_future(client.server.stop())
        await asyncio.sleep(0.1)
        await call.write(SENT[1])
        failure = await failure_of(call)
        assert (failure.code, failure.reason, failure.retryable) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", True)
        await stopping
    assert kept(settings) == []


async def test_two_may_bring_the_same_at_once(client: Client, settings: ServerSettings, sdk: AsyncClient) -> None:
    content = os.urandom(3_000_000)
    replies = await asyncio.gather(*(sdk.training.upload(content) for _ in range(4)))
    assert len(set(replies)) == 1
    (name,) = kept(settings)
    assert (settings.state_dir / "training/data" / name).read_bytes() == content


async def test_whatever_is_uploaded_is_the_same(client: Client, sdk: AsyncClient, data: Path) -> None:
    content = await asyncio.to_thread(data.read_bytes)
    for given in (data, str(data), content, (content[start : start + 999] for start in range(0, len(content), 999))):
        uploaded = await sdk.training.upload(given)
        assert (uploaded.size, uploaded.num_lines) == (len(content), 40)
        assert uploaded.uri == f"upload:{uploaded.digest}" == "upload:sha256:" + hashlib.sha256(content).hexdigest()
    for wrong in (data.with_name("nowhere"), data.parent, ["text"]):
        with pytest.raises(UsageError):
            await sdk.training.upload(wrong)


async def test_a_run_on_an_upload_is_the_run_on_the_file(
    client: Client, sdk: AsyncClient, base: Path, data: Path
) -> None:
    by_path = await client.finished((await client.create("path", spec(base, data))).run_id)
    uploaded = await sdk.training.upload(data)
    await asyncio.to_thread(data.unlink)
    asked = with_data(base, uploaded.uri)
    asked.data_digest, asked.eval_data_uri = uploaded.digest, uploaded.uri
    run = await client.finished((await client.create("upload", asked)).run_id)
    assert run.state == pb.STATE_SUCCEEDED, run.error
    assert run.result.model.digest == by_path.result.model.digest
    assert run.result.data_digest == uploaded.digest
    assert run.spec == asked


async def test_an_upload_that_is_not_there_is_told(client: Client, base: Path) -> None:
    missing = await failure_of(client.create("a", with_data(base, f"upload:{DIGEST}")))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "DATA_NOT_FOUND")
    assert "there is no such upload" in missing.message
    malformed = await failure_of(client.create("b", with_data(base, "upload:../../etc/passwd")))
    assert (malformed.code, malformed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_SPEC")
    await client.stub.UploadData(iter(SENT))
    other = with_data(base, f"upload:{DIGEST}")
    other.data_digest = "sha256:" + 64 * "0"
    mismatch = await failure_of(client.create("c", other))
    assert (mismatch.code, mismatch.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DATA_DIGEST_MISMATCH")


async def test_what_no_run_needs_is_removed_when_it_is_old(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")

    def old() -> None:
        for path in (settings.state_dir / "training/data").iterdir():
            os.utime(path, (1e9, 1e9))

    async with client_of(settings) as client, AsyncClient(client.server.address) as sdk:
        needed = await sdk.training.upload(data)
        await sdk.training.upload(CONTENT)
        short = await client.create("short", spec(base, write_jsonl(tmp_path / "short.jsonl", [sample(1)])))
        waiting = await client.create("waiting", with_data(base, needed.uri, per_device_batch_size=1))
        await asyncio.to_thread(old)
        await client.finished(short.run_id)
        await until_kept(settings, 1)
        await client.until_step(waiting.run_id, 1)
        (await worker_process()).kill()
        await asyncio.to_thread(old)
    async with client_of(settings) as client:
        assert kept(settings) == [f"{needed.digest[7:]}.jsonl"]
        ended = await client.finished(waiting.run_id)
        assert ended.state == pb.STATE_SUCCEEDED, ended.error
    async with client_of(settings):
        assert len(kept(settings)) == 1, "it was used until its run ended"
        await asyncio.to_thread(old)
    async with client_of(settings):
        assert kept(settings) == []


async def test_the_sdk_uploads_what_the_service_cannot_read_and_finds_the_run_again(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = RunSpec(ModelRef(str(base)), str(data), eval_data_uri=data.as_uri())
    monkeypatch.setenv("BURNISH_TRAINING_DATA_SCHEMES", "s3")
    async with client_of(settings) as client, AsyncClient(client.server.address) as sdk:
        with pytest.raises(NotFound, match=r"reads no files by their path .*upload"):
            await sdk.training.create(asked, "blind")
        first = await sdk.training.create(asked, "blind", upload=True)
        again = await sdk.training.create(asked, "blind", upload=True)
        assert first.run_id == again.run_id
        assert first.snapshot.spec.eval_data_uri == first.snapshot.spec.data_uri
        assert (await first.result()).num_samples == 40
        # Also when the file has changed meanwhile: then it is another run's data.
        write_jsonl(data, [sample(1)])
        with pytest.raises(AlreadyExists, match="another specification"):
            await sdk.training.create(asked, "blind", upload=True)
        with pytest.raises(NotFound):
            await sdk.training.create(RunSpec(ModelRef(str(base)), "/nowhere"), upload=True)


async def test_another_file_at_the_same_path_of_the_service_is_not_mistaken_for_it(
    sdk: AsyncClient, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines in one: what the client reads at the path is not what the service finds there."""
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    asked = RunSpec(ModelRef(str(base)), str(data), data_digest=digest)
    with pytest.raises(PreconditionFailed):
        await sdk.training.create(asked, "other")
    (data.parent / "mine.jsonl").write_bytes(CONTENT)
    monkeypatch.setattr("burnish._uploads.local_files", lambda spec: {str(data): data.parent / "mine.jsonl"})
    run = await sdk.training.create(asked, "other", upload=True)
    assert run.snapshot.spec.data_uri == f"upload:{digest}"
