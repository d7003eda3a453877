from __future__ import annotations

import pytest

from burnish._channel import ClientOptions, channel_options
from burnish._endpoints import Endpoints, grpc_target
from burnish._errors import UsageError


def test_one_address_for_all() -> None:
    endpoints = Endpoints.at("127.0.0.1:50051")
    assert endpoints.address("training") == "127.0.0.1:50051"
    assert endpoints.missing == ()


def test_a_missing_address_says_every_way_to_give_one() -> None:
    endpoints = Endpoints(scoring="127.0.0.1:50051")
    assert endpoints.missing == ("embedding", "rewriting", "training")
    with pytest.raises(UsageError) as caught:
        endpoints.address("training")
    for way in ("--training-endpoint", "BURNISH_TRAINING_ENDPOINT", "burnish.toml", "burnish up --roles training"):
        assert way in str(caught.value)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":50051", "host:0", "host:70000", "host:grpc"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected host:port"):
        Endpoints(scoring=address)


def test_a_url_is_refused_with_an_example() -> None:
    with pytest.raises(UsageError, match=r"not a gRPC address; expected host:port, such as 127.0.0.1:50051"):
        Endpoints.at("http://localhost:50051")


@pytest.mark.parametrize(
    "address", ["dns:///burnish-scoring:50051", "unix:/run/burnish.sock", "ipv4:10.0.0.1:50051,10.0.0.2:50051"]
)
def test_grpc_targets_pass(address: str) -> None:
    assert Endpoints.at(address).scoring == address


@pytest.mark.parametrize("address", ["dns:localhost:1", "xds:///scoring", "passthrough:localhost:1", "unix-abstract:x"])
def test_grpc_is_given_a_target_as_it_stands(address: str) -> None:
    assert grpc_target(address) == address
    assert grpc_target("scoring:1") == "dns:///scoring:1"


@pytest.mark.parametrize(
    ("address", "direct"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/x", True),
        ("unix-abstract:x", True),
        ("unixbox.corp:50051", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv6:[::1]:1,[::1]:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("scoring:50051", False),
        ("dns:localhost:1", True),
        ("dns://10.0.0.1:53/localhost:1", True),
        ("dns:scoring:1", False),
        ("passthrough:///127.0.0.1:1", True),
        ("xds:///localhost:1", False),
    ],
)
def test_only_this_machine_is_called_past_the_proxy(address: str, direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in channel_options(address, ClientOptions())) is direct


def test_the_channel_pings_as_often_as_the_servers_allow() -> None:
    options = dict(channel_options("scoring:50051", ClientOptions()))
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.max_receive_message_length"] == 64 * 2**20
    assert "round_robin" in str(options["grpc.service_config"])


@pytest.mark.parametrize(
    "wrong", [{"max_in_flight": 0}, {"connect_timeout": -1.0}, {"max_batch_items": 0}, {"keepalive_seconds": 5}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is"):
        ClientOptions(**wrong)  # type: ignore[arg-type]
