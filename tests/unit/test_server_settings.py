"""What the settings of a server process mean together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from burnish_services.runtime.config import ServerSettings


@pytest.mark.parametrize(
    ("roles", "given", "each"),
    [
        ("embedding", None, 0.9),
        ("rewriting", None, 0.9),
        ("scoring", None, 0.45),  # one engine that generates, one that reads
        ("scoring,embedding,rewriting", None, 0.45),
        ("embedding,training", None, 0.5),
        ("all", None, 0.25),
        ("all", 0.8, 0.4),
        ("training", None, 0.5),
    ],
)
def test_engines_of_a_process_share_a_gpu(roles: str, given: float | None, each: float) -> None:
    settings = ServerSettings(roles=roles, model="m", gpu_memory_utilization=given)  # type: ignore[arg-type]
    assert settings.engine_memory_utilization == pytest.approx(each)


def test_no_more_than_a_whole_gpu() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        ServerSettings(roles=("scoring",), model="m", gpu_memory_utilization=1.5)
