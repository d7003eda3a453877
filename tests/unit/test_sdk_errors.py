"""How failed calls are worded: one error per status code; every message says who, where, what and what to do."""

from __future__ import annotations

import re

import grpc
import pytest

import burnish._errors as errors
from burnish._errors import ERRORS_BY_CODE, BurnishError, MessageTooLarge, ServiceError, Unreachable
from burnish._status import CallStatus, service_error


def worded(code: grpc.StatusCode, text: str, **more: object) -> ServiceError:
    status = CallStatus(code, text, **more)  # type: ignore[arg-type]
    return service_error(status, service="scoring", address="127.0.0.1:50051", method="ScoreSamples", timeout=5)


def test_every_status_code_has_its_error() -> None:
    assert set(ERRORS_BY_CODE) == set(grpc.StatusCode)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_message_says_which_service_where(code: grpc.StatusCode) -> None:
    error = worded(code, "something")
    assert type(error) is ERRORS_BY_CODE[code]
    assert str(error).startswith("scoring service at 127.0.0.1:50051")
    assert (error.service, error.address, error.code) == ("scoring", "127.0.0.1:50051", code)


def test_unreachable_says_how_to_start_the_service() -> None:
    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:50051: Connection refused (111)"
    error = worded(grpc.StatusCode.UNAVAILABLE, text)
    assert isinstance(error, Unreachable)
    assert str(error) == (
        "scoring service at 127.0.0.1:50051 does not answer (Connection refused (111)). Start it with "
        "`burnish up --roles scoring` or pass --scoring-endpoint"
    )
    assert error.retryable


def test_a_servers_own_words_are_kept_with_its_reason() -> None:
    error = worded(grpc.StatusCode.UNAVAILABLE, "draining; retry elsewhere", reason="DRAINING", from_server=True)
    assert str(error) == "scoring service at 127.0.0.1:50051: draining; retry elsewhere [UNAVAILABLE, DRAINING]"
    assert error.reason == "DRAINING"


def test_a_deadline_says_how_long_it_was() -> None:
    message = str(worded(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
    assert "did not answer ScoreSamples within 5 s" in message
    assert "longer timeout" in message


def test_a_missing_method_points_at_roles_and_versions() -> None:
    message = str(worded(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
    assert "does not offer ScoreSamples" in message
    assert "--roles scoring" in message


def test_a_message_over_the_limit_is_told_apart_from_too_many_requests() -> None:
    large = worded(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 4)")
    many = worded(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 requests at once are the limit", reason="OVERLOADED")
    assert isinstance(large, MessageTooLarge)
    assert not isinstance(many, MessageTooLarge)
    assert "max_message_bytes" in str(large)
    assert str(many).endswith("[RESOURCE_EXHAUSTED, OVERLOADED]")


def test_exit_codes_are_those_of_the_command_line() -> None:
    assert errors.UsageError.exit_code == 2
    assert errors.SettingsError.exit_code == 2
    assert errors.StartFailed.exit_code == 3
    assert errors.Unreachable.exit_code == 3
    assert errors.NotFound.exit_code == 1


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn: list[tuple[str, str]] = []
    path: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ]*(?:├── |└── )?)([A-Z]\w+) ", line)
        if match:
            depth = len(match[1]) // 4
            path[depth] = match[2]
            if depth:
                drawn.append((match[2], path[depth - 1]))
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BurnishError)]
    actual = [(kind.__name__, kind.__bases__[0].__name__) for kind in kinds if kind is not BurnishError]
    assert sorted(drawn) == sorted(actual)
