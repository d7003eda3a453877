"""Data that is named by URI: fetched once from S3 (moto, the real protocol) or by fsspec, not needed after that."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import grpc
import pytest

from burnish.api.training.v1 import training_pb2 as pb
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.role import RoleUnavailable
from burnish_services.training import sources
from burnish_services.training.data import file_digest
from burnish_services.training.remote import read_remote
from tests.service.object_store import BUCKET, delete, point_at, put, s3_server
from tests.service.support import failure_of
from tests.service.training_support import Client, client_of, sample, spec, worker_process, write_jsonl


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def endpoint(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    point_at(server, monkeypatch)
    return server


def with_data(base: Path, uri: str, digest: str = "", **more: object) -> pb.RunSpec:
    message = spec(base, Path("unused"), **more)
    message.data_uri, message.data_digest = uri, digest
    return message


def kept(settings: ServerSettings) -> list[str]:
    folder = settings.state_dir / "training" / "data"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_a_run_outlives_the_bucket_its_worker_and_its_server(
    endpoint: str, settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.02")
    how = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2, "num_epochs": 2, "checkpoint_steps": 5}
    content = await asyncio.to_thread(data.read_bytes)
    asked = with_data(base, put(endpoint, "sets/run.jsonl", content), file_digest(data), **how)
    asked.eval_data_uri = asked.data_uri
    four = b"".join(content.splitlines(keepends=True)[:4])
    asked.bilevel.validation_data_uri = put(endpoint, "sets/validation.jsonl", four)
    async with client_of(settings) as client:
        run = await client.create("remote", asked)
        delete(endpoint, "sets/run.jsonl")
        delete(endpoint, "sets/validation.jsonl")
        assert (await failure_of(client.create("late", with_data(base, asked.data_uri)))).reason == "DATA_NOT_FOUND"
        await client.until_step(run.run_id, 8)
        (await worker_process()).kill()
        await client.until_step(run.run_id, 12)
    async with client_of(settings) as client:
        ended = await client.finished(run.run_id)
        assert ended.state == pb.STATE_SUCCEEDED, ended.error
        assert ended.num_resumes == 2
        assert ended.spec == asked
        assert ended.result.data_digest == file_digest(data)
        assert len(kept(settings)) == 2
        by_path = spec(base, data, **how)
        by_path.eval_data_uri = str(data)
        by_path.bilevel.validation_data_uri = str(
            write_jsonl(data.with_name("four.jsonl"), [sample(index) for index in range(4)])
        )
        calm = await client.finished((await client.create("calm", by_path)).run_id)
        assert ended.result.model.digest == calm.result.model.digest


async def test_what_is_there_is_not_fetched_again(endpoint: str, client: Client, base: Path, data: Path) -> None:
    uri = put(endpoint, "once.jsonl", await asyncio.to_thread(data.read_bytes))
    await client.create("first", with_data(base, uri))
    delete(endpoint, "once.jsonl")
    second = await client.create("second", with_data(base, uri, file_digest(data)))
    assert (await client.finished(second.run_id)).state == pb.STATE_SUCCEEDED


def test_bytes_come_as_they_are_whatever_the_name(endpoint: str) -> None:
    content = bytes(range(256)) * 20_000
    assert b"".join(read_remote(put(endpoint, "odd #name?x%20.jsonl.gz", content))) == content


async def test_data_that_cannot_be_had_is_told_clearly(
    endpoint: str, settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_MAX_DATA_BYTES", "10000")
    uri = put(endpoint, "small.jsonl", await asyncio.to_thread(data.read_bytes))
    large = put(endpoint, "large.jsonl", b"x" * 20_000)
    wrong = "sha256:" + 64 * "0"
    missing = f"s3://{BUCKET}/nowhere.jsonl"
    cases = [
        (with_data(base, missing), "NOT_FOUND", "DATA_NOT_FOUND", [f"data_uri {missing}: there is nothing"]),
        (with_data(base, "s3://no-such-bucket/x"), "NOT_FOUND", "DATA_NOT_FOUND", ["s3://no-such-bucket/x"]),
        (with_data(base, uri, wrong), "FAILED_PRECONDITION", "DATA_DIGEST_MISMATCH", [uri, f"expected {wrong}"]),
        (with_data(base, large), "INVALID_ARGUMENT", "DATA_TOO_LARGE", [large, "BURNISH_TRAINING_MAX_DATA_BYTES"]),
        (with_data(base, "s3://id:secret@bucket/x"), "INVALID_ARGUMENT", "BAD_SPEC", ["s3://bucket/x"]),
        (with_data(base, "s3://bucket"), "INVALID_ARGUMENT", "BAD_SPEC", ["expected s3://BUCKET/PATH"]),
        (with_data(base, "http://x/y?sig=secret"), "NOT_FOUND", "DATA_NOT_FOUND", ["BURNISH_TRAINING_DATA_SCHEMES"]),
    ]
    by_eval, by_validation = with_data(base, uri), with_data(base, uri)
    by_eval.eval_data_uri = by_validation.bilevel.validation_data_uri = missing
    cases += [
        (by_eval, "NOT_FOUND", "DATA_NOT_FOUND", [f"eval_data_uri {missing}"]),
        (by_validation, "NOT_FOUND", "DATA_NOT_FOUND", [f"bilevel.validation_data_uri {missing}"]),
    ]
    async with client_of(settings) as client:
        for asked, code, reason, words in cases:
            failure = await failure_of(client.create("refused", asked))
            assert (failure.code.name, failure.reason) == (code, reason), failure.message
            assert all(word in failure.message for word in words), failure.message
            assert "secret" not in failure.message
        assert len(kept(settings)) == 1, "only what was whole and asked for is kept"
        with socket.socket() as refusing:
            refusing.bind(("127.0.0.1", 0))  # and does not listen
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.getsockname()[1]}")
            failure = await failure_of(client.create("refused", with_data(base, uri)))
        assert (failure.code.name, failure.reason) == ("UNAVAILABLE", "DATA_UNREACHABLE"), "as an outage, to be retried"
        assert "AWS_ENDPOINT_URL" in failure.message
        page = await client.stub.ListRuns(pb.ListRunsRequest())
        assert not page.runs


async def test_fetching_holds_up_nobody_else_and_happens_once(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, fetched = threading.Event(), []

    def slow(uri: str) -> Iterator[bytes]:
        fetched.append(uri)
        go_on.wait(30)
        yield data.read_bytes()

    monkeypatch.setattr(sources, "read_remote", slow)
    async with client_of(settings) as client:
        asked = with_data(base, "s3://bucket/slow")
        twice = [asyncio.ensure_future(client.create("slow", asked)) for _ in range(2)]
        given_up = client.stub.CreateRun(pb.CreateRunRequest(request_id="given up", spec=asked))
        for _ in range(500):
            if len(fetched) == 2:
                break
            await asyncio.sleep(0.01)
        quick = await client.create("quick", spec(base, data))
        assert (await client.finished(quick.run_id)).state == pb.STATE_SUCCEEDED
        given_up.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        assert len({run.run_id for run in await asyncio.gather(*twice)}) == 1
        assert len(fetched) == 2
        runs = (await client.stub.ListRuns(pb.ListRunsRequest())).runs
        assert [run.request_id for run in runs] == ["slow", "quick"]
    assert len(kept(settings)) == 1


async def test_other_places_are_read_by_fsspec_where_the_server_allows_them(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_DATA_SCHEMES", "memory, file")
    with fsspec.open("memory://sets/data.jsonl", "wb") as file:
        file.write(await asyncio.to_thread(data.read_bytes))
    async with client_of(settings) as client:
        run = await client.create("memory", with_data(base, "memory://sets/data.jsonl", file_digest(data)))
        assert (await client.finished(run.run_id)).state == pb.STATE_SUCCEEDED
        assert (await failure_of(client.create("s3", with_data(base, "s3://bucket/x")))).reason == "DATA_NOT_FOUND"
        missing = await failure_of(client.create("gone", with_data(base, "memory://sets/gone.jsonl")))
        assert missing.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("schemes", "words"), [("file,gopher", "gopher"), ("sftp", "paramiko")])
async def test_a_scheme_that_nothing_reads_is_told_at_the_start(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, schemes: str, words: str
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_DATA_SCHEMES", schemes)
    with pytest.raises(RoleUnavailable, match=f"{words}.*BURNISH_TRAINING_DATA_SCHEMES"):
        async with client_of(settings):
            pass


async def test_a_file_that_the_service_may_not_read_is_told(client: Client, base: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:

        def forbidden(*_: object) -> str:
            raise PermissionError(13, "Permission denied")

        patched.setattr(sources, "check_digest", forbidden)
        failure = await failure_of(client.create("a", spec(base, write_jsonl(tmp_path / "d.jsonl", [sample(1)]))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "DATA_NOT_FOUND")
    assert "Permission denied" in failure.message
