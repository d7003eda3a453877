"""How a run gets from one state to the next, and when it is given up."""

from __future__ import annotations

from burnish_services.training.state import (
    Failure,
    Progress,
    RestartLimits,
    Result,
    RunState,
    Snapshot,
    begun,
    cancelled,
    checkpointed,
    crashed,
    deserted,
    failed,
    given_up,
    interrupted,
    met,
    orphaned,
    progressed,
    succeeded,
    succeeding,
    unmet,
    waiting,
)

DIED = Failure("ABORTED", "WORKER_CRASHED", "it died")
RESULT = Result("out", "sha256:1", 1.0, 0.5, 3, (), "sha256:2", 100)


def test_a_run_that_goes_well() -> None:
    run = begun(Snapshot(), at=10)
    assert (run.state, run.start_time, run.attempts) == (RunState.RUNNING, 10, 1)
    run = progressed(run, Progress(step=0, total_steps=4, eval_loss=2.0))
    run = progressed(run, Progress(step=1, total_steps=4, loss=1.5, seconds_left=9))
    assert (run.progress.loss, run.progress.eval_loss) == (1.5, 2.0), "a loss stands until it is measured again"
    run = succeeded(run, 25, RESULT)
    assert (run.state, run.end_time, run.work_seconds, run.result) == (RunState.SUCCEEDED, 25, 15, RESULT)
    assert (run.progress.eval_loss, run.progress.seconds_left) == (0.5, 0)


def test_time_worked_is_summed_over_interruptions() -> None:
    run = interrupted(begun(Snapshot(), 10), 14)
    assert (run.state, run.work_seconds) == (RunState.PENDING, 4)
    assert cancelled(run, 50).work_seconds == 4, "waiting is not work"
    worse = failed(begun(run, 100), 103, DIED)
    assert worse.work_seconds == 7
    after = succeeding(succeeding(Snapshot(), worse), worse)
    assert succeeded(begun(after, 200), 205, RESULT).work_seconds == 12, "begun by another run"


def test_a_run_that_is_given_up_says_why() -> None:
    run = given_up(Snapshot(RunState.PAUSED, work_seconds=4), 50, DIED)
    assert (run.state, run.end_time, run.work_seconds, run.failure) == (RunState.CANCELLED, 50, 4, DIED)


def test_a_worker_that_crashes_without_progress_is_given_up() -> None:
    limits = RestartLimits(worker_crashes=2)
    run = Snapshot()
    for _ in range(2):
        run = crashed(begun(run, 0), 1, DIED, limits)
        assert run.state is RunState.PENDING
    run = crashed(begun(run, 0), 1, DIED, limits)
    assert (run.state, run.failure, run.attempts) == (RunState.FAILED, DIED, 3)


def test_a_checkpoint_forgives_the_crashes_before_it() -> None:
    limits = RestartLimits(worker_crashes=1)
    run = Snapshot()
    for _ in range(10):
        run = crashed(checkpointed(begun(run, 0)), 1, DIED, limits)
        assert run.state is RunState.PENDING


def test_a_server_that_dies_with_its_worker_is_given_up_much_later() -> None:
    limits = RestartLimits(worker_crashes=0, server_crashes=5)
    run = Snapshot()
    for _ in range(5):
        run = orphaned(begun(run, 0), 1, limits)
        assert run.state is RunState.PENDING
    run = orphaned(begun(run, 0), 1, limits)
    assert run.state is RunState.FAILED
    assert run.failure is not None
    assert run.failure.reason == "SERVER_CRASHED"
    assert run.work_seconds == 6


def test_waiting_for_machines_is_no_attempt_and_no_crash() -> None:
    limits = RestartLimits(worker_crashes=0, unmet=2)
    run = waiting(Snapshot(), "node 1")
    assert (run.state, run.waiting_for) == (RunState.PENDING, "node 1")
    assert cancelled(run, 5).waiting_for == ""
    run = begun(run, 0)
    assert run.waiting_for == ""
    for _ in range(2):
        run = unmet(run, 1, DIED, limits)
        assert (run.state, run.attempts, run.crashes) == (RunState.PENDING, 0, 0)
        run = begun(run, 2)
    assert unmet(run, 3, DIED, limits).state is RunState.FAILED
    assert unmet(met(run), 3, DIED, limits).state is RunState.PENDING, "they are counted in a row"


def test_a_lost_machine_is_counted_as_a_server_is() -> None:
    limits = RestartLimits(worker_crashes=0, server_crashes=1)
    run = deserted(begun(Snapshot(), 0), 1, DIED, limits)
    assert (run.state, run.attempts, run.crashes) == (RunState.PENDING, 1, 0)
    assert deserted(begun(run, 0), 1, DIED, limits).failure == DIED
    assert deserted(checkpointed(begun(run, 0)), 1, DIED, limits).state is RunState.PENDING
