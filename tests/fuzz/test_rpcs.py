"""Every RPC answers whatever is sent to it with a reply or with a rejection that helps, and the server stays as well as
it was. Some 1,500 requests, the same ones each time; `make fuzz` sends more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzzing import Counts, fuzz
from tests.fuzz.messages import Words, messages
from tests.fuzz.rpcs import Rpc, all_rpcs
from tests.fuzz.vitals import Vitals
from tests.fuzz.world import World, world

REQUESTS = 42  # to each RPC
# What a process may take that has done everything once: compiled kernels, caches, threads, connections. Far below what
# anything would come to that each of the requests leaves behind.
MOST_MORE_MEMORY = 400 << 20
MOST_MORE_HANDLES = 40


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("fuzz")) as started:
        yield started


def test_every_service_is_fuzzed() -> None:
    protos = (Path(__file__).parents[2] / "protos/burnish/api").glob("*/v1/*.proto")
    declared = sum(line.startswith("  rpc ") for proto in protos for line in proto.read_text("utf-8").splitlines())
    assert len(all_rpcs()) == declared > 30


def test_every_rpc_answers_whatever_is_sent(fuzzed: World) -> None:
    before = Vitals.of(fuzzed)
    ended, wrong = Counts(), []
    for rpc in all_rpcs():
        fuzzed.prepare()
        counts, complaint = fuzz(rpc, fuzzed.words(), fuzzed.channel, REQUESTS)
        ended += counts
        if complaint:
            wrong.append(complaint)
    assert not wrong, "\n".join(wrong)
    assert not fuzzed.complaints()

    answered = {name for name, code, _ in ended if code == "OK"}
    assert len(answered) > 0.8 * len(all_rpcs()), "requests get no further than the first checks"
    reasons = {reason for _, _, reason in ended}
    assert reasons >= {"BAD_MESSAGE", "BAD_NAME", "EMPTY_BATCH", "MODEL_NOT_FOUND", "RUN_NOT_FOUND"}

    after = fuzzed.settled()
    assert after.open_calls == 0
    assert after.memory - before.memory < MOST_MORE_MEMORY
    assert after.handles - before.handles < MOST_MORE_HANDLES
    assert fuzzed.is_serving()


@pytest.mark.parametrize("rpc", all_rpcs(), ids=lambda rpc: rpc.name)
def test_the_fuzzer_makes_messages(rpc: Rpc) -> None:
    """Of every kind, with every field set in some, all of which go through the wire."""
    seen: set[str] = set()

    @settings(max_examples=30, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def make(data: st.DataObject) -> None:
        message = data.draw(messages(rpc.request, Words()))
        assert GetMessageClass(rpc.request).FromString(message.SerializeToString()) is not None
        seen.update(field.name for field, _ in message.ListFields())

    make()
    assert seen == {field.name for field in rpc.request.fields}
