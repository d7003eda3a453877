"""What leader and followers make of each other's files: who is there, who takes part in what, and for how long."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from burnish_services.runtime.serve import burnish_version
from burnish_services.training import followers as followers_module
from burnish_services.training import process
from burnish_services.training.follower import FollowerSettings, build_parser
from burnish_services.training.followers import Followers
from burnish_services.training.following import Follower, Replaced
from burnish_services.training.interfaces import interface_towards
from burnish_services.training.nodes import Attempt, Board, Presence, Pulse, WorkerOptions
from burnish_services.training.process import Place, _environment
from burnish_services.training.runs import RunDirectory
from tests.waiting import until

LEASE = 3.0
ATTEMPT = Attempt("a1", 0, "run-1", "127.0.0.1:1", 2, 1, {}, WorkerOptions(), 60.0)
# Says that it runs, and what it is told; ends well when it is asked to.
OBEDIENT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("stopping", flush=True), sys.exit(0)))
print("running", os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = Board(tmp_path / "training")
    made.prepare()
    (made.folder / "run-1").mkdir()
    return made


@pytest.fixture
def followers(board: Board) -> Followers:
    return Followers(board, burnish_version(), "127.0.0.1:1", LEASE)


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_file_that_never_changed_is_a_dead_ones() -> None:
    clock = Time()
    pulse = Pulse(10, clock)
    for clock.now in (0, 5, 100):
        assert not pulse.beats("beat 1")
    assert pulse.beats("beat 2")
    clock.now = 109
    assert pulse.beats("beat 2")
    assert pulse.beats(None), "nothing to be seen for a moment is no news"
    clock.now = 111
    assert not pulse.beats("beat 2")
    assert pulse.beats("beat 3")


def test_what_another_release_wrote_is_passed_over(board: Board) -> None:
    board.write_attempt(ATTEMPT)
    assert board.read_attempt() == ATTEMPT
    (board.folder / "nodes" / "attempt.json").write_text('{"attempt": "a2"}')
    assert board.read_attempt() is None
    board.remove_attempt()
    assert board.read_attempt() is None


def test_the_interface_is_the_one_that_leads_there() -> None:
    assert interface_towards("127.0.0.1:29400") == "lo"
    assert interface_towards("no-such-host.invalid:29400") == ""


def test_machines_meet_where_the_leader_says_and_one_alone_on_loopback() -> None:
    place = Place(8, 3, 2, "leader:29400", "a1", 60.0)
    words = process._command(RunDirectory(Path("/state/run-1")), WorkerOptions(threads=4, more=("--more", "1")), place)
    said = " ".join(words)
    assert "--nnodes 3 --nproc-per-node 8" in said
    assert "--rdzv-endpoint leader:29400 --rdzv-id a1 --rdzv-conf rank=2,timeout=60" in said
    assert "burnish_services.training.worker /state/run-1 --parent 0 --threads 4" in said
    assert words[-2:] == ["--more", "1"]
    alone = process._command(RunDirectory(Path("/state/run-1")), WorkerOptions(), Place(2))
    assert "--rdzv-endpoint 127.0.0.1:0" in " ".join(alone)
    single = process._command(RunDirectory(Path("/state/run-1")), WorkerOptions(), Place())
    assert not any("launch" in word for word in single)


# The leader's side.


@asynccontextmanager
async def present(board: Board, **said: str) -> AsyncIterator[dict[str, str]]:
    """Follower 1 beats, for the length of a block; what it says of itself may be changed."""
    presence = Presence(1, "s1", 0, "host-1", burnish_version(), str(board.folder.absolute()))

    async def beat() -> None:
        for number in range(1_000_000):
            board.write_presence(replace(presence, beat=number, **said))
            await asyncio.sleep(LEASE / 20)

    task = asyncio.create_task(beat())
    yield said
    task.cancel()


async def test_a_run_waits_until_its_followers_are_there_and_fit(board: Board, followers: Followers) -> None:
    told: list[str] = []
    found: dict[int, Presence] | None = None

    async def gather() -> None:
        nonlocal found
        found = await followers.gathered(2, told.append, lambda: False)

    gathering = asyncio.create_task(gather())
    board.write_presence(Presence(1, "dead", 5, "host-1", burnish_version(), str(board.folder.absolute())))
    await until(lambda: len(told) == 1)
    assert told[0].startswith("1 followers, of which 0 are ready: node 1 is not there (start `python -m burnish_")
    async with present(board, version="0.0.1") as said:
        await until(
            lambda: told[-1].endswith(f"node 1 (host-1) runs Burnish 0.0.1, expected {burnish_version()} as here")
        )
        del said["version"]
        said["folder"] = "/elsewhere/training"
        await until(lambda: "has /elsewhere/training, expected" in told[-1])
        del said["folder"]
        said["at_work"] = "a0"
        await until(lambda: "still ends its part of the last attempt" in told[-1])
        assert not gathering.done()
        said["at_work"] = ""
        await gathering
    assert found is not None
    assert found[1].session == "s1"
    assert len(told) == 4, "only what has changed is told"


async def test_who_waits_can_give_up(followers: Followers) -> None:
    gathering = asyncio.create_task(followers.gathered(2, lambda words: None, lambda: True))
    assert await gathering is None


@pytest.mark.parametrize("how", ["stopped", "killed", "restarted", "failed"])
async def test_a_lost_follower_ends_the_attempt(
    board: Board, followers: Followers, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers_module, "_GRACE_SECONDS", 0.0)
    given_up = asyncio.Event()
    async with present(board) as said:
        members = await followers.gathered(2, lambda words: None, lambda: False)
        assert members is not None
        team = followers.begin("run-1", 1, WorkerOptions(), members)
        team.hold(given_up.set)
        await until(lambda: (seen := board.read_attempt()) is not None and seen.beat > 2)
        assert not given_up.is_set()
        if how == "restarted":
            said["session"] = "s2"
        elif how == "failed":
            said |= {"ended": team.attempt.attempt, "outcome": "failed: it was tired"}
        if how in ("restarted", "failed"):
            await asyncio.wait_for(given_up.wait(), 10)
    if how == "stopped":
        board.remove_presence(1)
    await asyncio.wait_for(given_up.wait(), 3 * LEASE)
    await team.end(lambda: False)
    assert bool(team.gone) == (how != "failed")
    assert (
        team.words()
        == {
            "stopped": "node 1 (host-1) is gone",
            "killed": "node 1 (host-1) is gone",
            "restarted": "node 1 (host-1) was started anew meanwhile",
            "failed": "node 1 (host-1) failed: it was tired",
        }[how]
    )
    assert board.read_attempt() is None


async def test_a_follower_that_has_done_its_part_is_not_lost(board: Board, followers: Followers) -> None:
    async with present(board) as said:
        members = await followers.gathered(2, lambda words: None, lambda: False)
        assert members is not None
        team = followers.begin("run-1", 1, WorkerOptions(), members)
        team.hold(lambda: None)
        said["ended"] = team.attempt.attempt
        await team.end(lambda: False)
    assert team.words() == ""


def test_what_a_killed_leader_left_is_ended_by_the_next(board: Board, followers: Followers) -> None:
    board.write_attempt(ATTEMPT)
    followers.prepare()
    assert board.read_attempt() is None


# The follower's side.


class Leader:
    """Announces an attempt to follower 1, and renews it as long as it lives."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.task: asyncio.Task[None] | None = None

    def begin(self, name: str, session: str = "") -> None:
        said = self.board.read_presence(1)
        assert said is not None
        attempt = replace(ATTEMPT, attempt=name, members={1: session or said.session})

        async def hold() -> None:
            for number in range(1_000_000):
                self.board.write_attempt(replace(attempt, beat=number))
                await asyncio.sleep(LEASE / 20)

        self.task = asyncio.create_task(hold())

    def die(self) -> None:
        assert self.task is not None
        self.task.cancel()

    def said(self) -> Presence:
        said = self.board.read_presence(1)
        assert said is not None
        return said


@asynccontextmanager
async def following(board: Board) -> AsyncIterator[tuple[Leader, asyncio.Event, asyncio.Task[None]]]:
    """A leader, and a follower at work."""
    stop = asyncio.Event()
    task = asyncio.create_task(Follower(board, 1, lease_seconds=LEASE, stop_seconds=5).work(stop))
    await until(lambda: board.read_presence(1) is not None)
    yield Leader(board), stop, task
    stop.set()
    await asyncio.wait({task})


def work_is(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(process, "_command", lambda *_: [sys.executable, "-c", code])


def log_of(board: Board) -> str:
    path = board.folder / "run-1" / "worker-node-1.log"
    return path.read_text() if path.exists() else ""


async def test_a_follower_joins_what_lives_and_leaves_it_when_it_is_over(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_is(monkeypatch, OBEDIENT)
    async with following(board) as (leader, _, _):
        leader.begin("a1")
        await until(lambda: "running" in log_of(board))
        assert leader.said().at_work == "a1"
        leader.die()
        board.remove_attempt()
        await until(lambda: leader.said().ended == "a1")
        assert (leader.said().at_work, leader.said().outcome) == ("", "")
        assert log_of(board).count("running") == 1
        # The next one, whose leader is killed: the lease runs out.
        leader.begin("a2")
        await until(lambda: log_of(board).count("running") == 2)
        leader.die()
        await until(lambda: leader.said().ended == "a2", 5 * LEASE)
        assert "stopping" not in log_of(board), "it is ended at once"


async def test_a_follower_takes_no_part_in_what_is_over_or_another_ones(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_is(monkeypatch, OBEDIENT)
    async with following(board) as (leader, _, _):
        board.write_attempt(replace(ATTEMPT, attempt="stale", members={1: leader.said().session}))
        beats = leader.said().beat
        await until(lambda: leader.said().beat > beats + 5)
        leader.begin("not mine", session="of the process before this one")
        beats = leader.said().beat
        await until(lambda: leader.said().beat > beats + 5)
        leader.die()
        assert leader.said().at_work == ""
    assert log_of(board) == ""


async def test_a_failed_part_is_told_with_its_last_words(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    work_is(monkeypatch, "import sys; sys.exit('the disk is full of eels')")
    async with following(board) as (leader, _, _):
        leader.begin("a1")
        await until(lambda: leader.said().ended == "a1")
        outcome = leader.said().outcome
        assert outcome.startswith("failed: its worker exited with code 1; its log ")
        assert outcome.endswith("worker-node-1.log ends: the disk is full of eels")
        beats = leader.said().beat
        await until(lambda: leader.said().beat > beats + 5)
        assert log_of(board).count("eels") == 1, "not again in the same attempt"
        leader.die()


async def test_a_follower_that_stops_lets_its_part_end_in_order(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    work_is(monkeypatch, OBEDIENT)
    async with following(board) as (leader, stop, task):
        leader.begin("a1")
        await until(lambda: "running" in log_of(board))
        stop.set()
        await task
        assert "stopping" in log_of(board)
        assert board.read_presence(1) is None
        leader.die()


async def test_the_later_of_two_with_one_number_stays(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    work_is(monkeypatch, OBEDIENT)
    async with following(board) as (leader, _, first):
        leader.begin("a1")
        await until(lambda: "running" in log_of(board))
        async with following(board) as (_, _, second):
            with pytest.raises(Replaced, match="has number 1, too"):
                await first
            assert not second.done()
        leader.die()


def test_the_number_comes_from_the_job_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FollowerSettings().node == 1
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert FollowerSettings().node == 4
    monkeypatch.setenv("BURNISH_FOLLOWER_NODE", "2")
    assert FollowerSettings().node == 2
    assert FollowerSettings(**vars(build_parser().parse_args(["--node", "5"]))).node == 5


async def test_a_follower_ends_on_a_signal_with_its_code(tmp_path: Path) -> None:
    words = ("-m", "burnish_services.training.follower", "--state-dir", str(tmp_path), "--node", "2")
    ready = tmp_path / "training" / "nodes" / "node-2.json"
    started = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.DEVNULL)
    await until(ready.exists, 60)
    started.send_signal(signal.SIGTERM)
    assert await started.wait() == 143
    assert not ready.exists()
    refused = await asyncio.create_subprocess_exec(sys.executable, *words[:-1], "0", stderr=asyncio.subprocess.PIPE)
    _, said = await refused.communicate()
    assert refused.returncode == 2
    assert b"burnish follower: node: Input should be greater than or equal to 1" in said


@pytest.mark.parametrize(("given", "seen"), [(None, "0"), ("3,1", "3"), ("GPU-a", "GPU-a"), ("", "")])
def test_a_process_of_its_own_sees_one_gpu(given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert _environment(1)["CUDA_VISIBLE_DEVICES"] == seen
    assert _environment(1, Place(processes=2)).get("CUDA_VISIBLE_DEVICES") == given
