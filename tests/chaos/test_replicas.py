"""Two replicas behind one address: one of them stops, or they are not alike. The run goes on with the other; or it
ends, for answers are never mixed, and goes on once they are alike."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from burnish.coordinator.history import RunHistory
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.chaos.commands import WHOLE, Command, some_data
from tests.e2e.support import digest_of_final
from tests.waiting import until

ANSWERED = re.compile("EstimateConfidence .*code=OK")
TEMPLATE = """
{%- for message in messages %}<{{ message.role }}> {{ message.content }}</s>
{% endfor %}
{%- if add_generation_prompt %}<assistant> {% endif %}"""

Start = Callable[..., LocalServices]
Filter = Callable[[str], Command]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_fake_model(folder / "model", name="base", seed=1, skill=0.3, latency_seconds=0.05)


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return some_data(folder)


@pytest.fixture(scope="module")
def usual(folder: Path, model: Path) -> Iterator[str]:
    """A replica that is there all the time."""
    with LocalServices(("scoring",), engine="fake", model=model, state_dir=folder / "usual") as local:
        yield local.endpoints.scoring


@pytest.fixture(scope="module")
def undisturbed(usual: str, model: Path, data: Path, folder: Path) -> str:
    """Digest of what the run makes with that replica alone."""
    command = Command("clear", usual, model, data, folder / "undisturbed", *WHOLE)
    assert command.ended() == 0, command.errors
    return digest_of_final(folder / "undisturbed")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Start]:
    """Starts another replica."""
    with ExitStack() as running:

        def start(model: Path, **options: str) -> LocalServices:
            state = tmp_path / "other"
            settings = EngineOptions(**options)  # type: ignore[arg-type]
            local = LocalServices(("scoring",), engine="fake", model=model, state_dir=state, options=settings)
            return running.enter_context(local)

        yield start


@pytest.fixture
def filtered(usual: str, model: Path, data: Path, tmp_path: Path) -> Iterator[Filter]:
    """Starts a run that needs scoring alone and asks for ten batches; with another replica beside the usual one."""
    started: list[Command] = []

    def start(beside: str = "") -> Command:
        address = f"ipv4:{usual},{beside}" if beside else usual
        started.append(Command("clear", address, model, data, tmp_path / "out", "--filter-only"))
        return started[-1]

    yield start
    for command in started:
        command.kill()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_one_that_stops_in_mid_run_leaves_its_work_to_the_other(
    other: Start, filtered: Filter, model: Path, undisturbed: str, tmp_path: Path, how: signal.Signals
) -> None:
    second = await asyncio.to_thread(other, model)
    command = filtered(second.endpoints.scoring)
    await until(lambda: command.done_in("confidence") >= 2, 60)
    os.kill(second.pids[0], how)
    assert command.ended() == 0, command.errors
    assert digest_of_final(tmp_path / "out") == undisturbed
    await until(lambda: second.failure() is not None)
    log = (tmp_path / "other/scoring.log").read_text()
    assert ANSWERED.search(log)
    if how is signal.SIGTERM:
        assert "exit code 0" in (second.failure() or "")
        assert "CANCELLED" not in log, "what was running was finished"


def test_one_that_began_with_other_weights_answers_by_those_that_are_named(
    other: Start, filtered: Filter, undisturbed: str, tmp_path: Path
) -> None:
    second = other(write_fake_model(tmp_path / "model", name="other", seed=2, skill=0.9))
    command = filtered(second.endpoints.scoring)
    assert command.ended() == 0, command.errors
    assert ANSWERED.search((tmp_path / "other/scoring.log").read_text())
    assert digest_of_final(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("differing", ["chat_template", "dtype"])
def test_one_that_would_answer_differently_ends_the_run_which_goes_on_without_it(
    other: Start, filtered: Filter, model: Path, undisturbed: str, tmp_path: Path, differing: str
) -> None:
    template = tmp_path / "other.jinja"
    template.write_text(TEMPLATE)
    second = other(model, **{differing: str(template) if differing == "chat_template" else "bfloat16"})
    mixed = filtered(second.endpoints.scoring)
    assert mixed.ended() == 1, mixed.errors
    # By a reply in the midst of a step, or at its begin.
    assert re.search("(answered with other weights or in another way|computes otherwise) than when this", mixed.errors)
    assert re.search("[Aa]ll of its replicas", mixed.errors)
    assert "Traceback" not in mixed.errors
    with RunHistory.open(tmp_path / "out") as history:
        assert history.run.finished_at is None
    again = filtered("")
    if (
        differing == "dtype" and again.ended() != 0
    ):  # what is there may be the other one's, and nothing tells them apart
        assert "computes otherwise than when this run" in again.errors
        return
    assert again.ended() == 0, again.errors
    assert digest_of_final(tmp_path / "out") == undisturbed
