"""Between burnish.api.training.v1 and the service's own values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.training.v1 import training_pb2
from burnish_services.runtime import wire
from burnish_services.training.core import BilevelSpec, Hyperparameters, LoraSpec, RefinementSpec, RunSpec
from burnish_services.training.data_store import StoredFile
from burnish_services.training.events import Event
from burnish_services.training.runs import Run, RunRecord
from burnish_services.training.sample_weights import WeightSnapshot
from burnish_services.training.sources import UPLOAD
from burnish_services.training.state import Failure, Pause, Progress, Result, RunState, Snapshot

_WEIGHTS_PER_MESSAGE = 5000  # an id has at most 256 characters

_STATES = {
    RunState.PENDING: training_pb2.STATE_PENDING,
    RunState.RUNNING: training_pb2.STATE_RUNNING,
    RunState.SUCCEEDED: training_pb2.STATE_SUCCEEDED,
    RunState.FAILED: training_pb2.STATE_FAILED,
    RunState.CANCELLED: training_pb2.STATE_CANCELLED,
    RunState.PAUSED: training_pb2.STATE_PAUSED,
}


def run_spec(message: training_pb2.RunSpec) -> RunSpec:
    """What was asked for."""
    lora, bilevel = message.lora, message.bilevel
    return RunSpec(
        base_uri=message.base_model.uri,
        base_digest=message.base_model.digest,
        data_uri=message.data_uri,
        data_digest=message.data_digest,
        output_uri=message.output_uri,
        hyperparameters=Hyperparameters(**_given(message.hyperparameters)),
        eval_data_uri=message.eval_data_uri,
        lora=LoraSpec(**_given(lora), target_modules=tuple(lora.target_modules)) if message.HasField("lora") else None,
        bilevel=_bilevel(bilevel) if message.HasField("bilevel") else None,
        refinement=RefinementSpec(**_given(message.refinement)) if message.HasField("refinement") else None,
    )


def _bilevel(message: training_pb2.BilevelSelection) -> BilevelSpec:
    return BilevelSpec(
        validation_data_uri=message.validation_data_uri,
        validation_data_digest=message.validation_data_digest,
        **_given(message),
    )


def _given(message: Message) -> dict[str, Any]:
    """The optional fields of a message that are set; `optional` makes them a oneof of their own."""
    return {
        field.name: getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if field.containing_oneof is not None and message.HasField(field.name)
    }


def weights_messages(snapshot: WeightSnapshot) -> Iterator[training_pb2.ReadSampleWeightsResponse]:
    """A snapshot in parts that fit into messages."""
    for start in range(0, len(snapshot.names), _WEIGHTS_PER_MESSAGE):
        part = slice(start, start + _WEIGHTS_PER_MESSAGE)
        values = zip(snapshot.names[part], snapshot.weights[part], snapshot.logits[part], strict=True)
        yield training_pb2.ReadSampleWeightsResponse(
            step=snapshot.step,
            num_samples=len(snapshot.names),
            weights=[
                training_pb2.SampleWeight(id=name, weight=float(weight), logit=float(logit))
                for name, weight, logit in values
            ],
        )


def upload_message(stored: StoredFile) -> training_pb2.UploadDataResponse:
    """What an upload is called from now on."""
    return training_pb2.UploadDataResponse(
        uri=UPLOAD + stored.digest, digest=stored.digest, size_bytes=stored.size, num_lines=stored.lines
    )


def run_message(run: Run) -> training_pb2.Run:
    """A run as it is now."""
    return _run_message(run.record, run.snapshot)


def event_message(run: Run, event: Event) -> training_pb2.WatchRunResponse:
    """One event of a run."""
    return training_pb2.WatchRunResponse(
        event=event.number, time=wire.timestamp(event.time), run=_run_message(run.record, event.snapshot)
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
        create_time=wire.timestamp(record.create_time),
        start_time=wire.timestamp(snapshot.start_time),
        end_time=wire.timestamp(snapshot.end_time),
        num_resumes=max(0, snapshot.attempts - 1),
        pause=None if snapshot.pause is None else _pause_message(snapshot.pause),
        waiting_for=snapshot.waiting_for,
        chat_template_digest=snapshot.progress.chat_template_digest,
    )


def _pause_message(pause: Pause) -> training_pb2.Pause:
    return training_pb2.Pause(
        step=pause.step,
        model=common_pb2.ModelRef(uri=pause.model_uri, digest=pause.model_digest),
        reason=pause.reason,
        effective_share=pause.effective_share,
    )


def _spec_message(spec: RunSpec) -> training_pb2.RunSpec:
    return training_pb2.RunSpec(
        base_model=common_pb2.ModelRef(uri=spec.base_uri, digest=spec.base_digest),
        data_uri=spec.data_uri,
        data_digest=spec.data_digest,
        output_uri=spec.output_uri,
        hyperparameters=training_pb2.Hyperparameters(**asdict(spec.hyperparameters)),
        eval_data_uri=spec.eval_data_uri,
        lora=None if spec.lora is None else training_pb2.Lora(**asdict(spec.lora)),
        bilevel=None if spec.bilevel is None else training_pb2.BilevelSelection(**asdict(spec.bilevel)),
        refinement=None if spec.refinement is None else training_pb2.SelfRefinement(**asdict(spec.refinement)),
    )


def _progress_message(progress: Progress) -> training_pb2.Progress:
    return training_pb2.Progress(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        learning_rate=progress.learning_rate,
        tokens_per_second=progress.tokens_per_second,
        eval_loss=progress.eval_loss,
        time_left=wire.duration(progress.seconds_left),
        memory_bytes=progress.memory_bytes,
        device_memory_bytes=progress.device_memory_bytes,
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
        duration=wire.duration(seconds),
        published_step=result.published_step,
    )


def _failure_message(failure: Failure) -> common_pb2.ItemStatus:
    return common_pb2.ItemStatus(
        code=code_pb2.Code.Value(failure.code), reason=failure.reason, message=failure.message, retryable=False
    )
