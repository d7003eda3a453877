"""The runtime's pure pieces: admission, streams at a drain, logs, prompts, settings, errors."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from pydantic import ValidationError

from burnish.api.common.v1 import common_pb2
from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    ModelDigestMismatch,
    ModelLoadError,
    ModelNotFound,
    Sampling,
)
from burnish_services.runtime import logs, wire
from burnish_services.runtime.admission import Admission, TokenBudget
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.config import ALL_ROLES, ServerSettings, is_loopback
from burnish_services.runtime.errors import (
    InternalError,
    InvalidRequest,
    Overloaded,
    Unavailable,
    abort_status,
    item_status,
    service_error,
)
from burnish_services.runtime.health import HealthServicer
from burnish_services.runtime.interceptors import _until_drained
from burnish_services.runtime.lifecycle import Lifecycle
from burnish_services.runtime.prompts import PromptFiles


def test_admission_counts_slots_and_gives_them_back_whatever_happens() -> None:
    admission = Admission("scoring", 2)
    assert admission.tokens is None
    with admission.slot(), admission.slot():
        with pytest.raises(Overloaded, match="2 requests at a time") as refused, admission.slot():
            pass
        assert refused.value.retry_after is not None
        assert 0.1 <= refused.value.retry_after <= 30
    with suppress(ZeroDivisionError), admission.slot():
        raise ZeroDivisionError
    assert admission.running == 0


def test_a_token_budget_refuses_what_does_not_fit_and_says_when_to_come_back() -> None:
    budget = TokenBudget("scoring", 1000)
    budget.check(5000)  # nothing else is there: it could never be taken otherwise
    with budget.holding(700):
        budget.check(300)
        with pytest.raises(Overloaded, match="700 of at most 1000 tokens in progress and cannot take 301") as refused:
            budget.check(301)
        assert (refused.value.reason, refused.value.retryable) == ("TOO_MANY_TOKENS", True)
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 0
    assert budget.held == 0
    budget.check(5000)


def test_a_call_that_was_let_in_is_let_finish() -> None:
    budget = TokenBudget("scoring", 100)
    first, second = CallRecord("a", budget), CallRecord("b", budget)
    with first.in_engine(80):
        with pytest.raises(Overloaded), second.in_engine(30):
            pass
        assert (second.prompt_tokens, second.engine_seconds) == (0, 0.0)
    with second.in_engine(30), first.in_engine(90):
        assert budget.held == 120
    assert budget.held == 0


async def endless(messages: list[Message], closed: asyncio.Event) -> AsyncIterator[Message]:
    try:
        for message in messages:
            yield message
        await asyncio.Event().wait()
    finally:
        closed.set()


async def test_a_watcher_that_leaves_between_two_messages_leaves_nothing_open() -> None:
    closed, first = asyncio.Event(), health_pb2.HealthCheckResponse(status=1)
    stream = _until_drained(endless([first], closed), Lifecycle())
    assert await anext(stream) == first
    await stream.aclose()
    assert closed.is_set()


async def test_a_stream_ends_when_the_server_drains() -> None:
    lifecycle, closed = Lifecycle(), asyncio.Event()
    first, second = health_pb2.HealthCheckResponse(status=1), health_pb2.HealthCheckResponse(status=2)
    stream = _until_drained(endless([first, second], closed), lifecycle)
    assert await anext(stream) == first
    assert await anext(stream) == second
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    lifecycle.drain()
    with pytest.raises(Unavailable) as ended:
        await asyncio.wait_for(waiting, 2)
    assert ended.value.reason == "DRAINING"
    assert closed.is_set()


async def test_a_stream_that_ends_by_itself_ends_well() -> None:
    async def two() -> AsyncIterator[Message]:
        for status in (1, 2):
            yield health_pb2.HealthCheckResponse(status=status)

    assert len([message async for message in _until_drained(two(), Lifecycle())]) == 2


@pytest.mark.parametrize(
    ("error", "code", "reason", "retryable"),
    [
        (InvalidRequest("BAD_ID", "no"), grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID", False),
        (ModelNotFound("no"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", False),
        (ModelDigestMismatch("no"), grpc.StatusCode.FAILED_PRECONDITION, "MODEL_DIGEST_MISMATCH", False),
        (ModelLoadError("no"), grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED", False),
        (EngineDead("no"), grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD", True),
        (KeyError("no"), grpc.StatusCode.INTERNAL, "INTERNAL", False),
    ],
)
def test_the_error_table(error: Exception, code: grpc.StatusCode, reason: str, retryable: bool) -> None:
    found = service_error(error)
    assert (found.code, found.reason, found.retryable) == (code, reason, retryable)


def test_a_defect_gets_a_new_id_each_time() -> None:
    first, second = service_error(KeyError("a")), service_error(KeyError("a"))
    assert isinstance(first, InternalError)
    assert isinstance(second, InternalError)
    assert first.error_id in first.message
    assert first.error_id != second.error_id


def test_details_travel_in_the_status() -> None:
    status = abort_status(Overloaded("TOO_MANY_REQUESTS", "later", retry_after=1.5))
    ((key, value),) = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    parsed = status_pb2.Status.FromString(value)
    assert (parsed.code, parsed.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "later")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert parsed.details[0].Unpack(info)
    assert parsed.details[1].Unpack(retry)
    assert dict(info.metadata) == {"retryable": "true"}
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5


def test_a_wrong_field_is_named_for_machines_too() -> None:
    status = abort_status(InvalidRequest("BAD_EVENT", "from_event is -1, expected 0 or more", field="from_event"))
    ((_, value),) = status.trailing_metadata
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(value).details[1].Unpack(bad)
    ((field, description),) = [(one.field, one.description) for one in bad.field_violations]
    assert (field, description) == ("from_event", "from_event is -1, expected 0 or more")


@pytest.mark.parametrize("quoted", ["x" * 5000, "%" * 5000, "茶" * 5000, "\0" * 5000, "\ud800" * 5000])
def test_a_message_that_quotes_too_much_fits_the_trailers_and_keeps_both_ends(quoted: str) -> None:
    status = abort_status(
        InvalidRequest("BAD_SPEC", f"the field is {quoted!r}, expected less", field="spec.output_uri")
    )
    ((_, details),) = status.trailing_metadata
    percent_encoded = sum(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode()) for c in status.details)
    assert percent_encoded + len(details) * 4 / 3 < 8000 / 1.5
    assert status.details.startswith("the field is ")
    assert status.details.endswith(", expected less")
    short = abort_status(InvalidRequest("BAD_SPEC", "the field is 茶 or 50%"))
    assert short.details == "the field is 茶 or 50%"


def test_an_item_reason_that_nobody_listed_is_internal() -> None:
    assert item_status(EngineFailure("TOO_LONG", "x")).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert item_status(EngineFailure("WHATEVER", "x", True)).code == grpc.StatusCode.INTERNAL.value[0]
    assert item_status(EngineFailure("WHATEVER", "x", True)).retryable


def record_of(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "levelname": "INFO", **extra})


def test_text_logs_quote_what_would_break_the_line() -> None:
    line = logs.TextFormatter().format(record_of("call", code="OK", why="two\nlines", empty="", number=1.5))
    assert line.endswith('INFO call code=OK why="two\\nlines" empty="" number=1.5')
    assert "\n" not in line
    forged = logs.TextFormatter().format(record_of("left out \x1b[2J x\nINFO call", path="a\x1b[2J"))
    assert forged.endswith('INFO left out \\x1b[2J x\\nINFO call path="a\\u001b[2J"')


def test_logs_leave_out_what_a_library_adds_to_every_record() -> None:
    plain = logging.getLogRecordFactory()

    def adding(*args: object, **kwargs: object) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.added = "by a library"
        return record

    logging.setLogRecordFactory(adding)
    try:
        assert logs.TextFormatter().format(record_of("call", code="OK")).endswith("INFO call code=OK")
    finally:
        logging.setLogRecordFactory(plain)


def test_json_logs_are_json() -> None:
    line = logs.JsonFormatter().format(record_of("call", code="OK", path=ALL_ROLES))
    assert json.loads(line)["code"] == "OK"
    assert json.loads(line)["level"] == "info"


def test_sampling_takes_defaults_only_where_unset() -> None:
    defaults = Sampling(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024)
    assert wire.resolve_sampling(common_pb2.SamplingParameters(), defaults) == defaults
    given = common_pb2.SamplingParameters(temperature=0, top_k=0, seed=0)
    resolved = wire.resolve_sampling(given, defaults)
    assert (resolved.temperature, resolved.top_k, resolved.seed, resolved.top_p) == (0, 0, 0, 0.7)


def test_nan_is_no_sampling_parameter() -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        wire.resolve_sampling(common_pb2.SamplingParameters(temperature=float("nan")), Sampling())


def test_prompt_digests_follow_the_files_named() -> None:
    files = PromptFiles("burnish_services.rewriting")
    assert files.digest(["simplify", "answer"]) == files.digest(["answer", "simplify"])
    assert files.digest(["simplify"]) != files.digest(["improve"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_settings_come_from_the_environment_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_SERVER_ROLES", "training,scoring")
    monkeypatch.setenv("BURNISH_SERVER_PORT", "50051")
    monkeypatch.setenv("BURNISH_SERVER_MODEL", "somewhere")
    settings = ServerSettings(port=1)
    assert settings.roles == ("scoring", "training")
    assert (settings.port, settings.model) == (1, "somewhere")
    assert ServerSettings(roles="all").roles == ALL_ROLES  # type: ignore[arg-type]


def test_training_alone_needs_no_model() -> None:
    assert not ServerSettings(roles=("training",)).needs_engine
    with pytest.raises(ValidationError, match="no model named"):
        ServerSettings(roles=("training", "embedding"))


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ValidationError, match="colour"):
        ServerSettings(model="x", colour="red")  # type: ignore[call-arg]


async def test_a_stop_while_a_status_is_being_sent_is_told_too() -> None:
    health = HealthServicer([])
    health.set_serving()
    watch = health.Watch(health_pb2.HealthCheckRequest(), None)  # type: ignore[arg-type]
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
    health.set_stopping()
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


def test_time_in_the_engine_counts_once_where_it_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([103.0, 108.0])  # first block in, last block out
    monkeypatch.setattr("burnish_services.runtime.calls.time.monotonic", lambda: next(clock))
    record = CallRecord("Any", arrival=100.0)
    with record.in_engine(prompt_tokens=2), record.in_engine(prompt_tokens=3):
        pass
    assert record.engine_seconds == 5.0
    assert record.queue_seconds == 3.0
    assert record.prompt_tokens == 5


@pytest.mark.parametrize("ticks", range(6))
async def test_a_watcher_who_leaves_as_the_stream_ends_leaves_nothing_behind(ticks: int) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    ends = asyncio.Event()

    async def stream() -> AsyncIterator[Message]:
        await ends.wait()
        for message in ():
            yield message

    async def watch() -> None:
        async with aclosing(_until_drained(stream(), Lifecycle())) as messages:
            async for _ in messages:
                pass

    watching = asyncio.create_task(watch())
    for _ in range(3):  # until it waits
        await asyncio.sleep(0)
    ends.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait({watching})
    del watching  # and with it the stack that it was cancelled in
    gc.collect()  # asyncio complains as it collects a task whose exception nobody looked at
    assert not complaints
