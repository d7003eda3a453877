"""Models that are named by their place in object storage (moto, the real protocol): fetched once, noticed where they
change, and told apart where they cannot be had."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from burnish import AccessDenied, AsyncClient, Message, ModelRef, Role, RunSpec, Sample, ServiceError
from burnish_services.engine import model_cache
from burnish_services.engine.base import ModelCacheFull, ModelLoadError, ModelNotAllowed, ModelUnreachable
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.model_cache import ModelCache
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.models import adapter_base_name
from burnish_services.engine.object_places import ObjectPlace
from burnish_services.engine.places import Roots
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from tests.service.object_store import BUCKET, Gate, put, put_model

SAMPLES = [Sample("s", (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")))]


@asynccontextmanager
async def client_of(model: str, state: Path, **more: Any) -> AsyncIterator[AsyncClient]:
    settings = ServerSettings(
        **{"roles": ("scoring", "rewriting"), "engine": "fake", "model": model, "state_dir": state, "grace": 2.0} | more
    )
    async with running(settings, partial(create_engine, "fake")) as server, AsyncClient(server.address) as client:
        yield client


def fetched(gate: Gate, key: str) -> int:
    """How often an object was read."""
    return gate.asked.count(f"GET /{BUCKET}/{key}")


async def test_a_server_begins_with_one_swaps_to_another_and_fetches_each_once(
    store: str, gate: Gate, tmp_path: Path
) -> None:
    models = [write_fake_model(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    first, second = (put_model(store, f"swap/{model.name}", model) for model in models)
    async with client_of(first, tmp_path / "state") as client:
        batch = await client.scoring.score(SAMPLES)
        assert (batch.model.uri, batch.model.digest) == (first, model_digest(models[0]))
        # Both services at once, and several calls of each.
        asked = [client.scoring.score(SAMPLES, model=ModelRef(second)) for _ in range(4)]
        *scored, loaded = await asyncio.gather(*asked, client.rewriting.load_model(ModelRef(second)))
        assert {one.model.digest for one in scored} | {loaded.digest} == {model_digest(models[1])}
        assert {one.model.uri for one in scored} == {second}
        again = await client.scoring.score(SAMPLES, model=ModelRef(first + "/"))
        assert again.scores == batch.scores
    assert fetched(gate, "swap/first/fake_model.json") == fetched(gate, "swap/second/fake_model.json") == 1
    async with client_of(first, tmp_path / "state") as client:
        assert (await client.scoring.score(SAMPLES)).scores == batch.scores
    assert fetched(gate, "swap/first/fake_model.json") == 1, "the cache outlives the server"


async def test_other_content_is_noticed_and_an_outage_only_where_one_must_look(
    store: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, old, new = (write_fake_model(tmp_path / str(seed), seed=seed) for seed in range(3))
    uri = put_model(store, "changing", old)
    async with client_of(str(held), tmp_path / "state") as client:
        before = await client.scoring.score(SAMPLES, model=ModelRef(uri))
        put_model(store, "changing", new)
        after = await client.scoring.score(SAMPLES, model=ModelRef(uri))
        assert (before.model.digest, after.model.digest) == (model_digest(old), model_digest(new))
        gate.asked.clear()
        by_digest = await client.scoring.score(SAMPLES, model=before.model)
        assert by_digest.scores == before.scores
        assert gate.asked == [], "what is named by its digest, and is here, needs no look"
        with pytest.raises(ServiceError, match="MODEL_DIGEST_MISMATCH"):
            await client.scoring.score(SAMPLES, model=ModelRef(uri, "sha256:" + 64 * "0"))

        gate.refuse("changing", 503)
        assert (await client.scoring.score(SAMPLES, model=after.model)).scores == after.scores
        with pytest.raises(ServiceError, match="MODEL_UNREACHABLE") as caught:
            await client.scoring.load_model(ModelRef(uri), timeout=10)
        assert caught.value.retryable
        gate.open()
        assert (await client.scoring.score(SAMPLES, model=ModelRef(uri))).model.digest == model_digest(new)


async def test_what_cannot_be_had_is_told_apart(store: str, gate: Gate, tmp_path: Path) -> None:
    put(store, "half/model.safetensors", b"x")
    put(store, "half/tokenizer.json", b"{}")
    put(store, "pickled/config.json", b"{}")
    put(store, "pickled/pytorch_model.bin", b"x")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    put(store, "sharded/config.json", b"{}")
    put(store, "sharded/model.safetensors.index.json", json.dumps(index).encode())
    put(store, "sharded/model-1.safetensors", b"x")
    denied = put_model(store, "denied", write_fake_model(tmp_path / "denied"))
    gate.refuse("denied", 403)
    cases = {
        f"s3://{BUCKET}/nothing": ("NOT_FOUND", "MODEL_NOT_FOUND", "nothing is stored below"),
        "s3://no-such-bucket/model": ("NOT_FOUND", "MODEL_NOT_FOUND", "no bucket"),
        f"s3://{BUCKET}/a/../b": ("NOT_FOUND", "MODEL_NOT_FOUND", "expected s3://BUCKET/PREFIX"),
        f"s3://{BUCKET}/half": ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "config.json not found"),
        f"s3://{BUCKET}/pickled": ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", r"\*.safetensors not found"),
        f"s3://{BUCKET}/sharded": ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "model-2.safetensors not found"),
        denied: ("FAILED_PRECONDITION", "MODEL_DENIED", "check the credentials"),
    }
    async with client_of(str(write_fake_model(tmp_path / "held")), tmp_path / "state") as client:
        for uri, (code, reason, words) in cases.items():
            with pytest.raises(ServiceError, match=f"(?s){words}.*{code}, {reason}"):
                await client.scoring.load_model(ModelRef(uri))
        assert (await client.scoring.score(SAMPLES)).scores[0].status.ok
    assert not fetched(gate, "pickled/pytorch_model.bin")
    assert not fetched(gate, "sharded/model-1.safetensors"), "what is not whole is not fetched"


def large_model(folder: Path, seed: int = 0, megabytes: int = 1) -> Path:
    """A fake model with weights beside it that nobody reads."""
    write_fake_model(folder, seed=seed)
    generator = np.random.default_rng(seed)
    save_file({"w": generator.random((megabytes, 2**17))}, folder / "model.safetensors")
    return folder


FETCH = """
import sys
from pathlib import Path
from burnish_services.engine.model_cache import ModelCache
from burnish_services.engine.model_store import ModelStore
folder, uri = sys.argv[1:]
print(ModelStore(ModelCache(Path(folder), 2**30)).lease(uri).path)
"""


async def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_that_looks_like_a_model(
    store: str, gate: Gate, tmp_path: Path
) -> None:
    model = large_model(tmp_path / "model", megabytes=20)
    uri, cache = put_model(store, "killed", model), tmp_path / "cache"
    gate.hold("GET .*killed/model.safetensors")
    command = [sys.executable, "-c", FETCH, str(cache), uri]
    killed = await asyncio.create_subprocess_exec(*command)
    waiting = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert await asyncio.to_thread(gate.waiting.wait, 60)
    (half,) = cache.glob("fetching-*")
    assert (half / "model" / "fake_model.json").is_file()
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    gate.open()
    said, _ = await waiting.communicate()  # it takes over, or was first
    found = Path(said.decode().strip())
    assert model_digest(found) == model_digest(model)
    assert found.parent.parent == cache
    ModelCache(cache, 2**30).remove_unfinished()
    assert sorted(path.name for path in cache.iterdir()) == sorted([found.parent.name, "locks"])


def test_the_one_not_used_for_longest_goes_and_none_that_is_used(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [put_model(store, f"lru/{seed}", large_model(tmp_path / str(seed), seed)) for seed in range(4)]
    models = ModelStore(ModelCache(tmp_path / "cache", 2_500_000))  # two of them

    def kept() -> set[str]:
        entries = (json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/entry.json"))
        return {entry["uri"] for entry in entries}

    held = models.lease(uris[0])
    models.lease(uris[1]).release()
    models.lease(uris[2]).release()
    assert kept() == {uris[0], uris[2]}, "the first is older, and in use"
    with models.lease(uris[2]), pytest.raises(ModelCacheFull, match="--model-cache-bytes"):
        models.lease(uris[3])
    held.release()
    shared = models.lease(uris[2]).share()
    models.lease(uris[3]).release()
    assert kept() == {uris[2], uris[3]}
    shared.release()
    with pytest.raises(ModelCacheFull):
        ModelStore(ModelCache(tmp_path / "tiny", 1_000_000)).lease(uris[0])
    monkeypatch.setattr(model_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left"):
        models.lease(uris[0])
    assert not list((tmp_path / "cache").glob("fetching-*"))


def test_a_model_that_is_replaced_while_it_is_fetched_is_fetched_anew(store: str, gate: Gate, tmp_path: Path) -> None:
    old, new = (large_model(tmp_path / str(seed), seed) for seed in range(2))
    uri = put_model(store, "replaced", old)
    gate.hold("GET .*replaced/model.safetensors")
    models = ModelStore(ModelCache(tmp_path / "cache", 2**30))

    async def race() -> Path:
        lease = asyncio.create_task(models.borrow(uri))
        await asyncio.to_thread(gate.waiting.wait, 30)
        replacing = asyncio.to_thread(put_model, store, "replaced", new)
        await replacing
        gate.open()
        return (await lease).path

    assert model_digest(asyncio.run(race())) == model_digest(new)


def test_who_gives_up_waiting_leaves_the_fetch_to_the_others(store: str, gate: Gate, tmp_path: Path) -> None:
    uri = put_model(store, "shared", large_model(tmp_path / "model"))
    gate.hold("GET .*shared/model.safetensors")
    models = ModelStore(ModelCache(tmp_path / "cache", 2**30))

    async def race() -> None:
        impatient, patient = (asyncio.create_task(models.borrow(uri)) for _ in range(2))
        await asyncio.to_thread(gate.waiting.wait, 30)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        gate.open()
        (await patient).release()

    asyncio.run(race())
    assert fetched(gate, "shared/fake_model.json") == 1


def test_an_adapter_is_what_it_is_with_its_base_wherever_both_lie(store: str, gate: Gate, tmp_path: Path) -> None:
    base, other = large_model(tmp_path / "base", 1), large_model(tmp_path / "other", 2)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"a": np.ones(3)}, adapter / "adapter_model.safetensors")

    def name_base(uri: str) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({"r": 1, "base_model_name_or_path": uri}))

    name_base(str(base))
    expected = model_digest(adapter)
    name_base(put_model(store, "adapted/base", base))
    uri = put_model(store, "adapted/adapter", adapter)
    models = ModelStore(ModelCache(tmp_path / "cache", 2**30))
    for place in (uri, str(adapter)):
        with models.lease(place) as lease:
            named = adapter_base_name(lease.path)
            assert named is not None
            assert model_digest(lease.path) == expected
            assert model_digest(Path(named)) == model_digest(base)
    gate.asked.clear()
    models.lease(uri, expected).release()
    assert gate.asked == []
    put_model(store, "adapted/base", other)
    with models.lease(uri) as lease:
        assert model_digest(lease.path) != expected, "its base is another model"
    inside = Roots(readable=(ObjectPlace.parse(uri),))
    with pytest.raises(ModelNotAllowed, match="adapted/base"):
        ModelStore(ModelCache(tmp_path / "confined", 2**30), inside).lease(uri)
    name_base(uri)
    put_model(store, "adapted/adapter", adapter)
    with pytest.raises(ModelLoadError, match="is an adapter; expected a whole model"):
        models.lease(uri)


async def test_callers_name_places_in_the_roots_only(store: str, tmp_path: Path) -> None:
    model = write_fake_model(tmp_path / "model", seed=5)
    held, allowed, beside = (put_model(store, key, model) for key in ("roots/held", "roots/ok/model", "roots/okay"))
    rows = json.dumps({"messages": [{"role": m.role.value, "content": m.content} for m in SAMPLES[0].messages]})
    data, private = (put(store, key, rows.encode()) for key in ("roots/ok/data.jsonl", "roots/private.jsonl"))
    more = {"roles": ("scoring", "training"), "write_roots": f"s3://{BUCKET}/roots/made"}
    async with client_of(held, tmp_path / "state", read_roots=f"s3://{BUCKET}/roots/ok/", **more) as client:
        for uri in (held, allowed, f"s3://{BUCKET}/roots/ok/model/"):
            assert (await client.scoring.score(SAMPLES, model=ModelRef(uri))).scores[0].status.ok
        for uri in (beside, f"s3://{BUCKET}/roots", f"s3://{BUCKET}-2/roots/ok/model", f"gs://{BUCKET}/roots/ok/model"):
            for call in (
                client.scoring.score(SAMPLES, model=ModelRef(uri)),
                client.training.create(RunSpec(ModelRef(uri), data)),
            ):
                with pytest.raises(AccessDenied, match=r"callers may name \(.*--read-roots.*PATH_NOT_ALLOWED"):
                    await call
        for uri in (f"s3://{BUCKET}/roots/ok/../private", f"s3://{BUCKET}/roots/ok//model", "s3://x:y@host/model"):
            with pytest.raises(ServiceError, match="expected s3://BUCKET/PREFIX"):
                await client.scoring.score(SAMPLES, model=ModelRef(uri))
        with pytest.raises(AccessDenied, match="data_uri"):
            await client.training.create(RunSpec(ModelRef(allowed), private))
        with pytest.raises(AccessDenied, match="--write-roots"):
            await client.training.create(RunSpec(ModelRef(allowed), data, output_uri=f"{allowed}-2"))
        spec = RunSpec(ModelRef(allowed), data, output_uri=f"s3://{BUCKET}/roots/made/here")
        result = await (await client.training.create(spec)).result()
        assert result.model.uri == spec.output_uri
        assert (await client.scoring.score(SAMPLES, model=result.model)).model.digest == result.model.digest


async def test_a_server_that_cannot_reach_its_model_ends_and_says_so(store: str, gate: Gate, tmp_path: Path) -> None:
    uri = put_model(store, "start", write_fake_model(tmp_path / "model"))
    gate.refuse("start", 503)
    with pytest.raises(ModelUnreachable, match="cannot be read now"):
        async with client_of(uri, tmp_path / "state"):
            pass


def test_only_an_exposed_server_is_confined(tmp_path: Path) -> None:
    common = {"engine": "fake", "model": "s3://bucket/base", "state_dir": tmp_path, "insecure": True}
    assert ServerSettings(**common).roots.readable is None
    exposed = ServerSettings(**common, host="0.0.0.0").roots
    assert exposed.readable == (tmp_path / "training", ObjectPlace("s3", "bucket", "base"))
    assert exposed.writable == ()
    with pytest.raises(ValueError, match="names no place in object storage"):
        ServerSettings(**common, read_roots="s3://bucket/a/../b")
