"""Who may call: TLS, certificates of clients and tokens, over real gRPC, through the SDK."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

import burnish
from burnish import AsyncClient, Client, ClientOptions, Endpoints, Message, Role, RunSpec, Sample, Security
from burnish._channel import Connections
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish.local import LocalServices
from burnish_services.engine.factory import create_engine
from burnish_services.runtime import tokens
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.runtime.server import AccessError, Server, running
from tests.service.support import failure_of

SAMPLE = Sample("s", (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")))
SECRETS = {"everything": "a" * 40, "asks": "b" * 40, "trains": "c" * 40}
SCOPES = {"everything": ["all"], "asks": ["scoring:read", "training:read"], "trains": ["training"]}


class Authority:
    """Certificates for this machine, and files with them."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.root = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.root))

    def issue(self, name: str = "127.0.0.1") -> tuple[Path, Path]:
        """Writes a new certificate and its key over those that are there."""
        made = self.ca.issue_cert(name)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        return chain, key


def write_tokens(path: Path, names: list[str]) -> Path:
    entries = (
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(SECRETS[name].encode()).hexdigest()}"\n'
        f"scopes = {SCOPES[name]!r}\n"
        for name in names
    )
    path.write_text("\n".join(entries))
    return path


def spoil(path: Path) -> None:
    path.write_text("no longer TOML [")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens.toml", list(SECRETS))


@pytest.fixture
async def guarded(settings: ServerSettings, token_file: Path) -> AsyncIterator[Server]:
    everything = settings.model_copy(update={"roles": ALL_ROLES, "tokens": token_file})
    async with running(everything, partial(create_engine, "fake")) as server:
        yield server


def client(server: Server, **security: object) -> AsyncClient:
    options = ClientOptions(security=Security(**security), connect_timeout=3.0, initial_backoff=0.05)
    return AsyncClient(Endpoints.at(server.address), options=options)


async def test_a_call_needs_a_token_that_is_good_for_it(guarded: Server, model: Path) -> None:
    async with client(guarded) as nobody:
        with pytest.raises(burnish.AccessDenied, match=r"authorization: Bearer TOKEN.*TOKEN_MISSING"):
            await nobody.scoring.info()
    async with client(guarded, token="d" * 40) as stranger:
        with pytest.raises(burnish.AccessDenied, match="TOKEN_UNKNOWN"):
            await stranger.scoring.score([SAMPLE])
    async with client(guarded, token=SECRETS["asks"]) as asking:
        assert (await asking.scoring.score([SAMPLE])).scores[0].status.ok
        assert await asking.training.list() == ()
        with pytest.raises(burnish.AccessDenied, match="'asks' is not good for CreateRun of the training service"):
            await asking.training.create(RunSpec(burnish.ModelRef(str(model)), "data.jsonl"))
        with pytest.raises(burnish.AccessDenied, match="SCOPE_MISSING"):
            await asking.scoring.load_model(burnish.ModelRef(str(model)))
        with pytest.raises(burnish.AccessDenied, match="GetInfo of the embedding service"):
            await asking.embedding.info()
    async with client(guarded, token=SECRETS["trains"]) as training:
        with pytest.raises(burnish.NotFound):
            await training.training.create(RunSpec(burnish.ModelRef(str(model)), "nowhere.jsonl"))
        with pytest.raises(burnish.AccessDenied):
            await training.scoring.score([SAMPLE])


async def test_streams_in_both_directions_are_guarded(guarded: Server) -> None:
    async with client(guarded, token=SECRETS["asks"]) as asking:
        with pytest.raises(burnish.AccessDenied, match="SCOPE_MISSING"):
            await asking.training.upload(b"{}\n" * 100)
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)

        async def watch() -> None:
            async for _ in stub.WatchRun(training_pb2.WatchRunRequest(run_id="run-1")):
                pass

        failure = await failure_of(watch())
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        unknown = channel.unary_unary("/burnish.api.scoring.v1.ScoringService/Nothing")
        assert (await failure_of(unknown(b""))).reason == "TOKEN_MISSING"


async def test_health_is_open_and_reflection_is_not(
    guarded: Server, settings: ServerSettings, token_file: Path
) -> None:
    async def ask_health(address: str) -> object:
        async with grpc.aio.insecure_channel(address) as channel:
            return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    async def ask_reflection(address: str) -> object:
        async with grpc.aio.insecure_channel(address) as channel:
            requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            return [r async for r in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests)]

    async def watch_health(address: str) -> object:
        async with grpc.aio.insecure_channel(address) as channel:
            return await health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()).read()

    assert await ask_health(guarded.address)
    assert (await failure_of(watch_health(guarded.address))).reason == "TOKEN_MISSING", "it would hold a place"
    assert (await failure_of(ask_reflection(guarded.address))).reason == "TOKEN_MISSING"
    closed = settings.model_copy(update={"tokens": token_file, "guard_health": True})
    async with running(closed, partial(create_engine, "fake")) as server:
        assert (await failure_of(ask_health(server.address))).reason == "TOKEN_MISSING"


async def test_tokens_are_rotated_without_a_restart(guarded: Server, token_file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRETS["everything"] + "\n")
    async with client(guarded, token_file=secret) as user:
        await user.scoring.info()
        write_tokens(token_file, ["asks"])
        with pytest.raises(burnish.AccessDenied, match="TOKEN_UNKNOWN"):
            await user.scoring.info()
        secret.write_text(SECRETS["asks"])
        await user.scoring.info()
        spoil(token_file)
        await user.scoring.info()  # what was good stays in force


async def test_connections_are_encrypted_and_the_certificate_is_renewed(
    settings: ServerSettings, authority: Authority, tmp_path: Path
) -> None:
    chain, key = authority.issue()
    encrypted = settings.model_copy(update={"tls_cert": chain, "tls_key": key})
    async with running(encrypted, partial(create_engine, "fake")) as server:
        async with client(server, ca_file=authority.root) as user:
            assert (await user.scoring.score([SAMPLE])).scores[0].status.ok
        for stranger in ({}, {"ca_file": Authority(tmp_path / "other").root}):
            async with client(server, **stranger) as user:
                with pytest.raises(burnish.Unreachable):
                    await user.scoring.info()
        # Another authority's certificate takes the place of the first; the server runs on.
        renewed = Authority(tmp_path / "renewed")
        for old, new in zip((chain, key), renewed.issue(), strict=True):
            old.write_bytes(new.read_bytes())
        async with client(server, ca_file=renewed.root) as user:
            await user.scoring.info()
        key.write_text("torn")
        async with client(server, ca_file=renewed.root) as user:
            await user.scoring.info()


async def test_clients_show_certificates_where_they_must(
    settings: ServerSettings, authority: Authority, tmp_path: Path
) -> None:
    chain, key = authority.issue()
    clients = Authority(tmp_path / "clients")
    mutual = settings.model_copy(update={"tls_cert": chain, "tls_key": key, "tls_client_ca": clients.root})
    async with running(mutual, partial(create_engine, "fake")) as server:
        certificate, own_key = clients.issue("pipeline")
        async with client(server, ca_file=authority.root, cert_file=certificate, key_file=own_key) as user:
            await user.scoring.info()
        wrong, wrong_key = authority.issue("pipeline")
        for shown in ({}, {"cert_file": wrong, "key_file": wrong_key}):
            async with client(server, ca_file=authority.root, **shown) as user:
                with pytest.raises(burnish.Unreachable):
                    await user.scoring.info()


def test_a_token_never_goes_over_a_network_in_the_clear(tmp_path: Path) -> None:
    security = Security(token="secret")
    assert security.metadata("127.0.0.1:1", local=True)
    with pytest.raises(burnish.UsageError, match=r"burnish-scoring:50051 in the clear; turn TLS on"):
        security.metadata("burnish-scoring:50051", local=False)
    assert replace(security, tls=True).metadata("burnish-scoring:50051", local=False)
    assert "secret" not in repr(security)
    with pytest.raises(burnish.UsageError, match="cannot be read"):
        Security(token_file=tmp_path / "none").metadata("localhost:1", local=True)
    with pytest.raises(burnish.UsageError, match="go together"):
        Security(cert_file=tmp_path / "cert")


@pytest.mark.parametrize(
    ("address", "leaves"),
    [
        ("scoring:50051", True),
        ("10.0.0.1:50051", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", True),
        ("127.0.0.1:1", False),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", False),
        ("unix:/run/burnish.sock", False),
    ],
)
def test_a_client_knows_which_of_its_addresses_leave_this_machine(address: str, leaves: bool) -> None:
    connections = Connections(ClientOptions(security=Security(token="secret")))
    if leaves:
        with pytest.raises(burnish.UsageError, match="in the clear"):
            connections.metadata(address)
    else:
        assert connections.metadata(address)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"host": "0.0.0.0"}, r"without encryption .* and without a way to tell who calls"),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"}, r"without a way to tell who calls"),
        ({"host": "0.0.0.0", "tokens": "t"}, r"without encryption"),
        ({"tls_cert": "c"}, "go together"),
        ({"tls_client_ca": "c"}, "needs --tls-cert"),
        ({"guard_health": True}, "needs --tokens"),
    ],
)
def test_settings_that_leave_a_door_open_are_refused(given: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ServerSettings(engine="fake", model="m", **given)


def test_what_is_closed_or_declared_open_may_be_exposed() -> None:
    for given in (
        {"insecure": True},
        {"tls_cert": "c", "tls_key": "k", "tokens": "t"},
        {"tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"},
    ):
        ServerSettings(engine="fake", model="m", host="0.0.0.0", **given)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "token: Field required"),
        ('[[token]]\nname = "a"\nsha256 = "x"\nscopes = ["all"]', "sha256"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["scores"]', "unknown scopes scores"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = []', "scopes"),
        ("[[token", "not valid TOML"),
    ],
)
def test_a_server_does_not_start_with_tokens_that_it_cannot_read(
    content: str, expected: str, settings: ServerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(content)
    with pytest.raises(AccessError, match=expected):
        Server(settings.model_copy(update={"tokens": path}), partial(create_engine, "fake"), version="test")
    with pytest.raises(AccessError, match="missing"):
        Server(
            settings.model_copy(update={"tokens": tmp_path / "missing"}), partial(create_engine, "fake"), version="t"
        )


def test_every_method_is_known_to_change_something_or_not() -> None:
    from importlib import import_module

    changing = {
        *("LoadModel", "CreateCollection", "DeleteCollection", "EmbedSamples"),
        *("CreateCalibration", "DeleteCalibration", "MeasureSamples", "FinishCalibration"),
        *("UploadData", "CreateRun", "ResumeRun", "CancelRun"),
    }
    assert not tokens.READING & changing
    methods = set()
    for role in ALL_ROLES:
        proto = import_module(f"burnish.api.{role}.v1.{role}_pb2")
        (service,) = proto.DESCRIPTOR.services_by_name.values()
        methods |= {method.name for method in service.methods}
    assert methods == tokens.READING | changing


def test_services_started_here_ask_nobody_whatever_the_environment_says(
    model: Path, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_SERVER_TOKENS", str(token_file))
    with (
        LocalServices(["scoring"], engine="fake", model=model, state_dir=tmp_path / "here") as local,
        Client(local.endpoints) as user,
    ):
        assert user.scoring.score([SAMPLE]).scores[0].status.ok
