"""Between burnish.api.training.v1 and the service's own values."""

from __future__ import annotations

from dataclasses import fields

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.training.v1 import training_pb2
from burnish_services.training.core import Hyperparameters, RunSpec
from burnish_services.training.events import Event
from burnish_services.training.runs import Run, RunRecord
from burnish_services.training.state import Failure, Progress, Result, RunState, Snapshot

_STATES = {
    RunState.PENDING: training_pb2.STATE_PENDING,
    RunState.RUNNING: training_pb2.STATE_RUNNING,
    RunState.SUCCEEDED: training_pb2.STATE_SUCCEEDED,
    RunState.FAILED: training_pb2.STATE_FAILED,
    RunState.CANCELLED: training_pb2.STATE_CANCELLED,
}


def run_spec(message: training_pb2.RunSpec) -> RunSpec:
    """What was asked for."""
    asked = message.hyperparameters
    given = {f.name: getattr(asked, f.name) for f in fields(Hyperparameters) if asked.HasField(f.name)}  # type: ignore[arg-type]
    return RunSpec(
        base_uri=message.base_model.uri,
        base_digest=message.base_model.digest,
        data_uri=message.data_uri,
        data_digest=message.data_digest,
        output_uri=message.output_uri,
        hyperparameters=Hyperparameters(**given),
        eval_data_uri=message.eval_data_uri,
    )


def run_message(run: Run) -> training_pb2.Run:
    """A run as it is now."""
    return _run_message(run.record, run.snapshot)


def event_message(run: Run, event: Event) -> training_pb2.WatchRunResponse:
    """One event of a run."""
    return training_pb2.WatchRunResponse(
        event=event.number, time=_timestamp(event.time), run=_run_message(run.record, event.snapshot)
    )


def _run_message(record: RunRecord, snapshot: Snapshot) -> training_pb2.Run:
    return training_pb2.Run(
        run_id=record.run_id,
        request_id=record.request_id,
        spec=_spec_message(record.spec),
        state=_STATES[snapshot.state],
        progress=_progress_message(snapshot.progress),
        result=None if snapshot.result is None else _result_message(snapshot.result, snapshot.work_seconds),
        error=None if snapshot.failure is None else _failure_message(snapshot.failure),
        create_time=_timestamp(record.create_time),
        start_time=_timestamp(snapshot.start_time),
        end_time=_timestamp(snapshot.end_time),
        num_resumes=max(0, snapshot.attempts - 1),
    )


def _spec_message(spec: RunSpec) -> training_pb2.RunSpec:
    asked = {f.name: getattr(spec.hyperparameters, f.name) for f in fields(Hyperparameters)}
    return training_pb2.RunSpec(
        base_model=common_pb2.ModelRef(uri=spec.base_uri, digest=spec.base_digest),
        data_uri=spec.data_uri,
        data_digest=spec.data_digest,
        output_uri=spec.output_uri,
        hyperparameters=training_pb2.Hyperparameters(**asked),
        eval_data_uri=spec.eval_data_uri,
    )


def _progress_message(progress: Progress) -> training_pb2.Progress:
    return training_pb2.Progress(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        learning_rate=progress.learning_rate,
        tokens_per_second=progress.tokens_per_second,
        eval_loss=progress.eval_loss,
        time_left=_duration(progress.seconds_left),
        memory_bytes=progress.memory_bytes,
    )


def _result_message(result: Result, seconds: float) -> training_pb2.RunResult:
    return training_pb2.RunResult(
        model=common_pb2.ModelRef(uri=result.model_uri, digest=result.model_digest),
        train_loss=result.train_loss,
        eval_loss=result.eval_loss,
        num_samples=result.num_samples,
        skipped=result.skipped,
        data_digest=result.data_digest,
        num_tokens=result.num_tokens,
        duration=_duration(seconds),
    )


def _failure_message(failure: Failure) -> common_pb2.ItemStatus:
    return common_pb2.ItemStatus(
        code=code_pb2.Code.Value(failure.code), reason=failure.reason, message=failure.message, retryable=False
    )


def _timestamp(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    stamp = Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
