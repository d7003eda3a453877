"""The commands for one capability with --out: kill them at any moment, and the same command finishes the work."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from burnish.cli.partial import partial, partial_path
from burnish.testing import FakeServices
from burnish_services.engine.fake import write_fake_model
from tests.e2e.commands import burnish, complained, lines
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import alpaca, write_jsonl

ROWS = alpaca(200)
IDS = [row["id"] for row in ROWS]
# Each command with its RPC.
COMMANDS = [
    ("ScoreSamples", ("score", "--tokens", "--ifd", "--distribution")),
    ("JudgeSamples", ("judge",)),
    ("JudgeSamples", ("judge", "--mode", "logit")),
    ("EstimateConfidence", ("confidence", "--tier", "standard")),
    ("EstimateConfidence", ("confidence", "--tier", "full")),
    ("RewriteSamples", ("rewrite", "--strategy", "diversify")),
    ("GenerateResponses", ("respond", "--responses", "2", "--temperature", "0.7")),
]
ASKED = {"RewriteSamples": lambda r: [one.sample.id for one in r.items], "GenerateResponses": lambda r: _ids(r.prompts)}


def _ids(items: Any) -> list[str]:
    return [one.id for one in items]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", ROWS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "lines.jsonl"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def arguments(address: str, data: Path, name: str, *more: object, model: object = "base") -> list[str]:
    return [str(word) for word in (name, "--endpoint", address, "--model", model, "--data", data, *more)]


class Asked:
    """The ids that the fakes are asked about by an RPC from now on, in order; failed calls included."""

    def __init__(self, fakes: FakeServices, method: str) -> None:
        self._fakes, self._method = fakes, method
        self._before = len(fakes.requests(method))

    @property
    def ids(self) -> list[str]:
        read: Callable[[Any], list[str]] = ASKED.get(self._method, lambda request: _ids(request.samples))
        return [name for one in self._fakes.requests(self._method)[self._before :] for name in read(one)]


def fail_after(fakes: FakeServices, method: str, number: int, **failure: Any) -> None:
    """Has the calls of an RPC fail that follow the next `number`."""
    left = iter(range(number))

    def count(reply: Any) -> None:
        if next(left, None) == number - 1:
            fakes.fail_next(method, **failure)

    fakes.change_reply(method, count)


@pytest.mark.parametrize(
    ("method", "command"), COMMANDS, ids=lambda value: "-".join(value) if value[0].islower() else ""
)
def test_the_same_command_asks_for_what_is_missing(
    fakes: FakeServices, data: Path, out: Path, method: str, command: tuple[str, ...]
) -> None:
    def run(*more: object) -> Result:
        return burnish(*arguments(fakes.address, data, *command, *more))

    undisturbed = run()
    assert [line["id"] for line in lines(undisturbed.stdout)] == IDS
    fail_after(fakes, method, 2, code=grpc.StatusCode.INTERNAL, message="made to break")
    complained(run("--out", out), 1, "made to break", "128 results are kept; the same command goes on from there.")
    assert names(out.parent) == [partial_path(out).name]
    asked = Asked(fakes, method)
    again = run("--out", out)
    complained(again, undisturbed.exit_code, "note: 128 of 200 results are there from before.")
    assert (again.stdout, asked.ids) == ("", IDS[128:])
    assert out.read_text(encoding="utf-8") == undisturbed.stdout
    assert names(out.parent) == [out.name]


def test_a_service_that_is_gone_costs_nothing_that_was_done(
    fakes: FakeServices, data: Path, out: Path, tmp_path: Path
) -> None:
    hasty = tmp_path / "hasty.toml"
    hasty.write_text("connect_timeout = 0.2\nreconnect_timeout = 0.3\n", encoding="utf-8")
    command = arguments(fakes.address, data, "score", "--out", out, "--config", hasty)
    fail_after(fakes, "ScoreSamples", 1, code=grpc.StatusCode.UNAVAILABLE, times=1000)
    complained(burnish(*command), 3, "does not answer", "64 results are kept; the same command goes on from there.")
    with FakeServices() as others:  # nothing but their address differs
        command = arguments(others.address, data, "score", "--out", out)
        assert burnish(*command).exit_code == 0
        assert Asked(others, "ScoreSamples").ids == []
        assert [name for one in others.requests("ScoreSamples") for name in _ids(one.samples)] == IDS[64:]


def test_items_that_failed_for_the_moment_are_asked_again(fakes: FakeServices, data: Path, out: Path) -> None:
    command = arguments(fakes.address, data, "score")
    undisturbed = burnish(*command).stdout

    def fail_some(reply: Any) -> None:
        for score in reply.scores:
            if score.sample_id in ("s7", "s150", "s151"):
                score.status.code, score.status.reason, score.status.retryable = 13, "ENGINE_FAILED", True
                score.status.message = "not now"
            if score.sample_id == "s8":
                score.status.code, score.status.reason, score.status.message = 3, "BAD_ROLES", "not ever"

    fakes.change_reply("ScoreSamples", fail_some)
    done = burnish(*command, "--out", out)
    complained(
        done, 1, "4 of 200 samples failed; the first: s7: not now. The same command asks again for 3 that failed"
    )
    assert [line["id"] for line in lines(out.read_text()) if "error" in line] == ["s7", "s8", "s150", "s151"]
    fakes.change_reply("ScoreSamples", lambda reply: None)
    asked = Asked(fakes, "ScoreSamples")
    complained(burnish(*command, "--out", out), 1, "1 of 200 samples failed; the first: s8: not ever")
    assert asked.ids == ["s7", "s150", "s151"]
    said, expected = out.read_text().splitlines(), undisturbed.splitlines()
    assert [said[i] == expected[i] for i in range(200)] == [i != 8 for i in range(200)]
    assert names(out.parent) == [out.name]


def test_items_that_were_too_long_are_asked_again_under_other_limits(
    fakes: FakeServices, data: Path, out: Path
) -> None:
    def too_long(reply: Any) -> None:
        reply.scores[3].status.code, reply.scores[3].status.reason = 3, "TOO_LONG"
        fakes.fail_next("ScoreSamples", grpc.StatusCode.INTERNAL)

    command = arguments(fakes.address, data, "score", "--out", out)
    fakes.change_reply("ScoreSamples", too_long)
    assert burnish(*command).exit_code == 1
    fakes.change_reply("ScoreSamples", lambda reply: None)
    asked = Asked(fakes, "ScoreSamples")
    assert burnish(*command).exit_code == 0
    assert asked.ids == ["s3", *IDS[64:]]


@pytest.mark.parametrize("other", ["options", "data", "command", "model", "prompts"])
def test_lines_of_something_else_are_not_gone_on_with(fakes: FakeServices, data: Path, out: Path, other: str) -> None:
    fail_after(fakes, "JudgeSamples", 1, code=grpc.StatusCode.INTERNAL)
    assert burnish(*arguments(fakes.address, data, "judge", "--out", out)).exit_code == 1
    fakes.change_reply("JudgeSamples", lambda reply: None)
    name, method, more, model = "judge", "JudgeSamples", list[object](), "base"
    if other == "options":
        more = ["--seed", "1"]
    elif other == "data":
        write_jsonl(data, [*ROWS[:-1], {**ROWS[-1], "output": "Something else."}])
    elif other == "command":
        name, method = "score", "ScoreSamples"
    elif other == "model":
        model = "another"
    else:
        fakes.change_reply("GetInfo", lambda reply: reply.prompt_digests.update({"judge": "new"}))
        fakes.change_reply("JudgeSamples", lambda reply: setattr(reply, "prompt_digest", "new"))
    asked = Asked(fakes, method)
    done = burnish(*arguments(fakes.address, data, name, *more, "--out", out, model=model))
    complained(done, 1, "keeps results for", "of other data, options, model or release", "remove that file")
    assert asked.ids == []
    (kept,) = names(out.parent)
    (out.parent / kept).unlink()
    assert burnish(*arguments(fakes.address, data, name, *more, "--out", out, model=model)).exit_code == 0
    assert asked.ids == IDS
    assert names(out.parent) == [out.name]


@pytest.mark.parametrize("what", ["dtype", "prompts"])
def test_a_service_that_becomes_another_is_not_gone_on_with(
    fakes: FakeServices, data: Path, out: Path, what: str
) -> None:
    number = iter(range(10))

    def change(reply: Any) -> None:
        if next(number) >= 1:
            if what == "dtype":
                reply.model.dtype = "bfloat16"
            else:
                reply.prompt_digest = "new"

    fakes.change_reply("JudgeSamples", change)
    said = "other weights or in another way" if what == "dtype" else "used other prompts (new)"
    done = burnish(*arguments(fakes.address, data, "judge", "--out", out))
    complained(done, 1, said, "64 results are kept; the same command goes on from there.")


def test_two_commands_do_not_write_the_same_file(fakes: FakeServices, data: Path, out: Path) -> None:
    command = arguments(fakes.address, data, "score", "--out", out)
    with partial(out, "other") as kept:
        complained(burnish(*command), 1, "lines.jsonl is being written by another command. Wait until that has ended")
        kept.add([{"id": "mine"}])
    assert fakes.requests("ScoreSamples") == []
    partial_path(out).unlink()
    assert burnish(*command).exit_code == 0


class Gate:
    """Lets some replies through and keeps the others back, so that a command is on its way for as long as a test
    wants."""

    def __init__(self, fakes: FakeServices, method: str, number: int) -> None:
        self._left = number
        self._lock = threading.Lock()
        self.reached, self.opened = threading.Event(), threading.Event()
        fakes.change_reply(method, self._pass)

    def _pass(self, reply: Any) -> None:
        with self._lock:
            self._left -= 1
            free = self._left >= 0
        if not free:
            self.reached.set()
            self.opened.wait(60)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def begin(started: list[subprocess.Popen[str]], words: list[str]) -> subprocess.Popen[str]:
    started.append(subprocess.Popen([sys.executable, "-m", "burnish", *words], stderr=subprocess.PIPE, text=True))
    return started[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_ended_in_the_midst_has_done_what_it_did(
    fakes: FakeServices, data: Path, out: Path, processes: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    command = arguments(fakes.address, data, "score", "--tokens")
    undisturbed = out.with_name("undisturbed")
    assert burnish(*command, "--out", undisturbed).exit_code == 0
    gate = Gate(fakes, "ScoreSamples", 2)
    process = begin(processes, [*command, "--out", str(out)])
    assert gate.reached.wait(60)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    gate.opened.set()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "Interrupted.\n128 results are kept; the same command goes on from there.\n" in said
    assert not out.exists()
    asked = Asked(fakes, "ScoreSamples")
    complained(burnish(*command, "--out", out), 0, "note: 128 of 200 results are there from before.")
    assert asked.ids == IDS[128:]
    assert out.read_bytes() == undisturbed.read_bytes()
    assert names(out.parent) == [out.name, "undisturbed"]


def test_a_process_that_is_killed_again_and_again_on_the_fake_engine(
    services: FakeEngineServices, data: Path, out: Path, processes: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    slow = write_fake_model(tmp_path / "slow", name="slow", seed=2, skill=0.3, latency_seconds=0.3)
    more = ("--responses", "2", "--temperature", "0.8", "--max-tokens", "20", "--seed", "5")
    command = arguments(services.address, data, "respond", *more, model=slow)
    undisturbed = out.with_name("undisturbed")
    assert burnish(*command, "--out", undisturbed).exit_code == 0
    kept = 0
    for _ in range(2):
        process = begin(processes, [*command, "--out", str(out)])
        while (size := partial_path(out).stat().st_size if partial_path(out).exists() else 0) <= kept:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait(60)
        assert not out.exists()
        kept = size
    complained(burnish(*command, "--out", out), 0, " of 200 results are there from before.")
    assert out.read_bytes() == undisturbed.read_bytes()
    assert names(out.parent) == [out.name, "undisturbed"]
