"""Which files callers may name: models and data in the server's roots only, wherever a path leads, over real gRPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from burnish import AccessDenied, AsyncClient, Message, ModelRef, NotFound, Role, RunSpec, Sample
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.runtime.server import running

SAMPLES = [Sample("s", (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")))]
ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}


class Site:
    """A server's folders: what its callers may name, and a secret beside them."""

    def __init__(self, base: Path) -> None:
        self.read, self.write, self.secret = base / "read", base / "write", base / "secret"
        for folder in (self.read, self.write, self.secret):
            folder.mkdir()
        self.held = write_fake_model(base / "held")
        self.model, self.hidden = write_fake_model(self.read / "model", seed=1), write_fake_model(self.secret / "model")
        self.data, self.private = self.read / "data.jsonl", self.secret / "data.jsonl"
        for path in (self.data, self.private):
            path.write_text(json.dumps(ROW) + "\n")

    def ways_out(self) -> list[str]:
        """Names of the hidden model that look as though they were allowed, or are no path at all."""
        (self.read / "link").symlink_to(self.hidden)
        patchwork = self.read / "patchwork"
        patchwork.mkdir()
        (patchwork / "fake_model.json").symlink_to(self.hidden / "fake_model.json")
        return [
            str(self.hidden),
            self.hidden.as_uri(),
            f"{self.read}/../secret/model",
            f"file://localhost{self.read}/%2e%2e/secret/model",
            str(self.read / "link"),
            str(patchwork),
            str(self.secret / "there is nothing here"),
        ]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
async def client(site: Site, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    settings = ServerSettings(
        roles=ALL_ROLES,
        engine="fake",
        model=str(site.held),
        state_dir=tmp_path / "state",
        grace=2.0,
        read_roots=f"{site.read}",
        write_roots=f"{site.write}",
    )
    async with running(settings, partial(create_engine, "fake")) as server, AsyncClient(server.address) as made:
        yield made


async def test_models_are_read_in_the_roots_and_nowhere_else(client: AsyncClient, site: Site) -> None:
    for allowed in (site.model, site.held):
        batch = await client.scoring.score(SAMPLES, model=ModelRef(str(allowed)))
        assert batch.scores[0].status.ok
    for uri in site.ways_out():
        for call in (
            client.scoring.score(SAMPLES, model=ModelRef(uri)),
            client.rewriting.load_model(ModelRef(uri)),
            client.embedding.load_model(ModelRef(uri)),
            client.training.create(RunSpec(ModelRef(uri), str(site.data))),
        ):
            with pytest.raises(AccessDenied, match=r"callers may name \(.*--read-roots.*PATH_NOT_ALLOWED"):
                await call
    assert (await client.scoring.score(SAMPLES)).scores[0].status.ok


async def test_data_is_read_and_models_are_written_in_the_roots_only(client: AsyncClient, site: Site) -> None:
    (site.read / "rows.jsonl").symlink_to(site.private)
    for uri in (str(site.private), site.private.as_uri(), str(site.read / "rows.jsonl"), str(site.secret / "no.jsonl")):
        with pytest.raises(AccessDenied, match=r"data_uri .*PATH_NOT_ALLOWED"):
            await client.training.create(RunSpec(ModelRef(str(site.model)), uri))
        with pytest.raises(AccessDenied, match="eval_data_uri"):
            await client.training.create(RunSpec(ModelRef(str(site.model)), str(site.data), eval_data_uri=uri))
    (site.write / "link").symlink_to(site.secret)
    for output in (site.secret / "new", site.read / "new", site.write / "link" / "new", site.write / ".." / "new"):
        with pytest.raises(AccessDenied, match=r"output_uri .*--write-roots"):
            await client.training.create(RunSpec(ModelRef(str(site.model)), str(site.data), output_uri=str(output)))
    assert sorted(entry.name for entry in site.secret.iterdir()) == ["data.jsonl", "model"]


async def test_the_base_of_an_adapter_is_not_looked_at_outside_of_the_roots(
    client: AsyncClient, site: Site, tmp_path: Path
) -> None:
    adapter = site.read / "adapter"
    adapter.mkdir()
    kept = tmp_path / "state" / "models"
    for base in (site.hidden, site.secret / "nothing", f"{kept}/../../secret/model", kept / "key" / "model"):
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        with pytest.raises(AccessDenied, match="PATH_NOT_ALLOWED"):
            await client.scoring.score(SAMPLES, model=ModelRef(str(adapter)))


async def test_nothing_is_published_among_what_the_server_keeps(tmp_path: Path, site: Site) -> None:
    settings = ServerSettings(
        roles=("training",),
        engine="fake",
        state_dir=site.write / ".training",
        grace=2.0,
        read_roots=f"{site.read}",
        write_roots=f"{site.write}",
    )
    async with running(settings, partial(create_engine, "fake")) as server, AsyncClient(server.address) as client:
        spec = RunSpec(ModelRef(str(site.model)), str(site.data), output_uri=str(site.write / "model"))
        assert (await (await client.training.create(spec)).result()).num_samples == 1
        for name in ("training/run-0123456789abcdef", "training/data/x", "embedding/x", "merged/x", "models/x"):
            output = str(site.write / ".training" / name)
            with pytest.raises(AccessDenied, match="where this server keeps what is its own"):
                await client.training.create(replace(spec, output_uri=output))
        beside = replace(spec, output_uri=str(site.write / ".training" / "beside"))  # as of a run in the folder of both
        assert (await (await client.training.create(beside)).result()).num_samples == 1


async def test_data_outside_of_the_roots_may_be_sent_instead(client: AsyncClient, site: Site) -> None:
    run = await client.training.create(RunSpec(ModelRef(str(site.model)), str(site.private)), "sent", upload=True)
    assert (await run.result()).num_samples == 1
    assert run.snapshot.spec.data_uri.startswith("upload:sha256:")
    again = await client.training.create(RunSpec(ModelRef(str(site.model)), str(site.private)), "sent", upload=True)
    assert again.run_id == run.run_id
    # What an upload does not remedy is refused as before.
    with pytest.raises(AccessDenied, match=r"model .*PATH_NOT_ALLOWED"):
        await client.training.create(RunSpec(ModelRef(str(site.hidden)), str(site.private)), upload=True)


async def test_what_was_trained_may_be_named_wherever_it_was_put(client: AsyncClient, site: Site) -> None:
    for output in (str(site.write / "deep" / "down"), ""):
        spec = RunSpec(ModelRef(str(site.model)), str(site.data), output_uri=output)
        result = await (await client.training.create(spec)).result()
        batch = await client.scoring.score(SAMPLES, model=result.model)
        assert batch.model.digest == result.model.digest


async def test_names_that_no_file_can_have_are_refused_by_name(client: AsyncClient, site: Site) -> None:
    for uri in ("a\0b", "x" * 5000, "s3://bucket/model", "file://elsewhere/model", "~nobody-at-all/model"):
        with pytest.raises((NotFound, AccessDenied), match="model"):
            await client.scoring.score(SAMPLES, model=ModelRef(uri))


def test_only_a_server_on_loopback_reads_whatever_its_user_may(site: Site, tmp_path: Path) -> None:
    common = {"engine": "fake", "model": str(site.held), "state_dir": tmp_path / "state", "insecure": True}
    assert ServerSettings(**common).roots.readable is None
    exposed = ServerSettings(**common, host="0.0.0.0").roots
    assert exposed.readable == (tmp_path / "state" / "training", site.held)
    assert exposed.writable == ()
    with pytest.raises(ValidationError, match="is no directory"):
        ServerSettings(**common, read_roots=str(tmp_path / "gone"))
