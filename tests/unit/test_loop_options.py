"""How many requests a run has on the way at a time: what it was told, else as many as its client."""

from __future__ import annotations

import pytest

from burnish import Client, ClientOptions
from burnish.coordinator.loop import RunOptions, _wide_enough


@pytest.mark.parametrize(
    ("options", "of_the_client", "sent"),
    [(None, 2, 2), (RunOptions(), 2, 2), (RunOptions(max_in_flight=16), 4, 16), (RunOptions(max_in_flight=2), 4, 4)],
)
def test_a_run_sends_as_many_as_it_was_told_to(options: RunOptions | None, of_the_client: int, sent: int) -> None:
    with Client("127.0.0.1:1", options=ClientOptions(max_in_flight=of_the_client)) as client:
        assert _wide_enough(client, options).max_in_flight == sent
