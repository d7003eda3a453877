"""Two replicas behind one address that are not alike: answers are never mixed, and the run goes on once they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from burnish.coordinator.history import RunHistory
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.chaos.commands import Command, some_data
from tests.e2e.support import digest_of_final

Replica = Callable[..., str]
TEMPLATE = """
{%- for message in messages %}<{{ message.role }}> {{ message.content }}</s>
{% endfor %}
{%- if add_generation_prompt %}<assistant> {% endif %}"""


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    with ExitStack() as running:

        def start(name: str, model: Path, **options: str) -> str:
            local = LocalServices(
                ("scoring",),
                engine="fake",
                model=model,
                state_dir=tmp_path / name,
                options=EngineOptions(**options),  # type: ignore[arg-type]
            )
            return str(running.enter_context(local).endpoints.scoring)

        yield start


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "model", name="base", seed=1, skill=0.3, latency_seconds=0.05)


def filtered(address: str, model: Path, folder: Path, out: str) -> Command:
    """A run that only needs scoring, and asks for many batches."""
    data = folder / "data.jsonl" if (folder / "data.jsonl").exists() else some_data(folder)
    return Command("clear", address, model, data, folder / out, "--filter-only")


def both(*addresses: str) -> str:
    return f"ipv4:{','.join(addresses)}"


def test_replicas_that_began_with_other_weights_all_answer_by_those_that_are_named(
    replica: Replica, model: Path, tmp_path: Path
) -> None:
    other = write_fake_model(tmp_path / "other", name="other", seed=2, skill=0.9)
    addresses = replica("a", model), replica("b", other)
    alone = filtered(addresses[0], model, tmp_path, "alone")
    assert alone.ended() == 0, alone.errors
    mixed = filtered(both(*addresses), model, tmp_path, "mixed")
    assert mixed.ended() == 0, mixed.errors
    assert digest_of_final(tmp_path / "mixed") == digest_of_final(tmp_path / "alone")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chat_template": "other.jinja"}, "template "),
        ({"dtype": "bfloat16"}, "bfloat16"),
    ],
    ids=["another chat template", "another dtype"],
)
def test_replicas_that_would_answer_differently_end_the_run_which_goes_on_once_they_are_alike(
    replica: Replica, model: Path, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    (tmp_path / "other.jinja").write_text(TEMPLATE)
    if "chat_template" in options:
        options = {"chat_template": str(tmp_path / options["chat_template"])}
    usual = replica("usual", model)
    alone = filtered(usual, model, tmp_path, "alone")
    assert alone.ended() == 0, alone.errors
    mixed = filtered(both(usual, replica("unusual", model, **options)), model, tmp_path, "out")
    assert mixed.ended() == 1, mixed.errors
    assert "scoring service answered with other weights or in another way than when this step began" in mixed.errors
    assert said in mixed.errors
    assert "Let all of its replicas run the same release" in mixed.errors
    assert "Traceback" not in mixed.errors
    with RunHistory.open(tmp_path / "out") as history:
        assert history.run.finished_at is None
    again = filtered(usual, model, tmp_path, "out")
    assert again.ended() == 0, again.errors
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "alone")
