"""The fake training service: runs of a few steps that take no time. Private."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from burnish.api.common.v1 import common_pb2
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish.testing._state import Context, FakeState, failed, refuse

# ruff: noqa: N802 - gRPC names the methods

RUN_STEPS = 3
_WEIGHTS_PER_MESSAGE = 16  # so that a snapshot comes in several parts


class FakeTraining(training_pb2_grpc.TrainingServiceServicer):
    """Runs of three steps that take no time and whose loss falls."""

    def __init__(self, state: FakeState) -> None:
        self._state = state
        self._resumed: dict[str, int] = {}  # after which pause each run went on

    def GetInfo(self, request: training_pb2.GetInfoRequest, context: Context) -> training_pb2.GetInfoResponse:
        return training_pb2.GetInfoResponse(info=self._state.info())

    def UploadData(
        self, request_iterator: Iterator[training_pb2.UploadDataRequest], context: Context
    ) -> training_pb2.UploadDataResponse:
        requests = list(request_iterator)
        if not requests or not requests[-1].last:
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "the upload was cut off", "BAD_UPLOAD")
        content = b"".join(request.chunk for request in requests)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if requests[0].digest not in ("", digest):
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "another digest", "DATA_DIGEST_MISMATCH")
        self._state.uploads[f"upload:{digest}"] = content
        lines = sum(bool(line.strip()) for line in content.split(b"\n"))
        return training_pb2.UploadDataResponse(
            uri=f"upload:{digest}", digest=digest, size_bytes=len(content), num_lines=lines
        )

    def CreateRun(self, request: training_pb2.CreateRunRequest, context: Context) -> training_pb2.CreateRunResponse:
        run_id = "run-" + hashlib.sha256(request.request_id.encode()).hexdigest()[:16]
        with self._state.changed:
            known = self._state.runs.get(run_id)
            if known is not None and known.spec != request.spec:
                message = f"{request.request_id} was used with another spec"
                refuse(context, grpc.StatusCode.ALREADY_EXISTS, message, "REQUEST_ID_USED")
            data = request.spec.data_uri
            if known is None and data.startswith("upload:") and data not in self._state.uploads:
                refuse(context, grpc.StatusCode.NOT_FOUND, f"there is no {data}", "DATA_NOT_FOUND")
            if known is None:
                known = training_pb2.Run(
                    run_id=run_id, request_id=request.request_id, spec=request.spec, state=training_pb2.STATE_PENDING
                )
                known.create_time.GetCurrentTime()
                self._state.runs[run_id] = known
        return training_pb2.CreateRunResponse(run=self._now(known))

    def GetRun(self, request: training_pb2.GetRunRequest, context: Context) -> training_pb2.GetRunResponse:
        return training_pb2.GetRunResponse(run=self._now(self._find(request.run_id, context)))

    def ListRuns(self, request: training_pb2.ListRunsRequest, context: Context) -> training_pb2.ListRunsResponse:
        runs = list(reversed(self._state.runs.values()))
        first = int(request.page_token or 0)  # one a page, as with collections
        token = str(first + 1) if first + 1 < len(runs) else ""
        return training_pb2.ListRunsResponse(
            runs=[self._now(run) for run in runs[first : first + 1]], next_page_token=token
        )

    def CancelRun(self, request: training_pb2.CancelRunRequest, context: Context) -> training_pb2.CancelRunResponse:
        run = self._find(request.run_id, context)
        with self._state.changed:
            if not self._state.finish_runs:
                run.state = training_pb2.STATE_CANCELLED
            self._state.changed.notify_all()
        return training_pb2.CancelRunResponse(run=self._now(run))

    def ResumeRun(self, request: training_pb2.ResumeRunRequest, context: Context) -> training_pb2.ResumeRunResponse:
        run = self._find(request.run_id, context)
        with self._state.changed:
            now = self._now(run)
            if now.pause.step != request.step:
                refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"{request.run_id} waits for nothing there")
            self._resumed[request.run_id] = RUN_STEPS if request.last else request.step
            self._state.changed.notify_all()
        return training_pb2.ResumeRunResponse(run=self._now(run))

    def WatchRun(
        self, request: training_pb2.WatchRunRequest, context: Context
    ) -> Iterator[training_pb2.WatchRunResponse]:
        run = self._find(request.run_id, context)
        number = 0
        for number, now in enumerate(self._history(run), start=1):
            if number >= request.from_event:
                yield _event(number, now)
        with self._state.changed:
            self._state.changed.wait_for(
                lambda: not self._state.serving or not context.is_active() or self._ended(run), timeout=60
            )
        last = self._now(run)
        if last.state >= training_pb2.STATE_SUCCEEDED and number + 1 >= request.from_event:
            yield _event(number + 1, last)

    def ReadSampleWeights(
        self, request: training_pb2.ReadSampleWeightsRequest, context: Context
    ) -> Iterator[training_pb2.ReadSampleWeightsResponse]:
        run = self._find(request.run_id, context)
        if not run.spec.HasField("bilevel"):
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"{request.run_id} learns no weights")
        data = run.spec.data_uri
        content = self._state.uploads[data] if data.startswith("upload:") else Path(data).read_bytes()
        names = [str(json.loads(line)["id"]) for line in content.splitlines()]
        for step in range(max(0, request.after_step) + 1, RUN_STEPS + 1):
            for start in range(0, len(names), _WEIGHTS_PER_MESSAGE):
                yield training_pb2.ReadSampleWeightsResponse(
                    step=step,
                    num_samples=len(names),
                    weights=[_weight(name, step) for name in names[start : start + _WEIGHTS_PER_MESSAGE]],
                )

    def _find(self, run_id: str, context: Context) -> training_pb2.Run:
        if run_id not in self._state.runs:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no run {run_id!r}")
        return self._state.runs[run_id]

    def _ended(self, run: training_pb2.Run) -> bool:
        if run.state == training_pb2.STATE_CANCELLED:
            return True
        *_, now = self._history(run)
        return self._state.finish_runs and now.state != training_pb2.STATE_PAUSED

    def _history(self, run: training_pb2.Run) -> Iterable[training_pb2.Run]:
        """The run after each step. One with self-refinement pauses after each but the last."""
        resumed = self._resumed.get(run.run_id, 0) if run.spec.HasField("refinement") else RUN_STEPS
        for step in range(1, RUN_STEPS + 1):
            now = training_pb2.Run()
            now.CopyFrom(run)
            now.state = training_pb2.STATE_RUNNING
            now.progress.step, now.progress.total_steps, now.progress.loss = step, RUN_STEPS, 2.0 / step
            if 0 < step - 1 <= resumed < RUN_STEPS:
                now.pause.CopyFrom(_pause(run, step - 1))
            yield now
            if resumed < step < RUN_STEPS:
                now.state = training_pb2.STATE_PAUSED
                now.pause.CopyFrom(_pause(run, step))
                yield now
                return

    def _now(self, run: training_pb2.Run) -> training_pb2.Run:
        *_, now = self._history(run)
        if run.state == training_pb2.STATE_CANCELLED:
            now.state = training_pb2.STATE_CANCELLED
        elif now.state == training_pb2.STATE_PAUSED:
            self._state.digests[now.pause.model.uri] = now.pause.model.digest
        elif self._state.finish_runs and "fail" in run.spec.data_uri:
            now.state = training_pb2.STATE_FAILED
            now.error.CopyFrom(failed("LOSS_NOT_FINITE"))
        elif self._state.finish_runs:
            now.state = training_pb2.STATE_SUCCEEDED
            uri = run.spec.output_uri or f"fake://{run.run_id}"
            made_of = f"{self._state.version(run.spec.base_model).digest} {run.spec.data_digest}"
            digest = "sha256:" + hashlib.sha256(made_of.encode()).hexdigest()
            self._state.digests[uri] = digest
            now.result.model.CopyFrom(common_pb2.ModelRef(uri=uri, digest=digest))
            now.result.train_loss, now.result.num_samples = 1.0, 10
            now.result.data_digest = run.spec.data_digest
        return now


def _weight(name: str, step: int) -> training_pb2.SampleWeight:
    """What was learnt about a sample: nothing but its name, and the more the longer it was trained on."""
    logit = (hashlib.sha256(name.encode()).digest()[0] / 127.5 - 1) * step
    return training_pb2.SampleWeight(id=name, weight=2 / (1 + math.exp(-logit)), logit=logit)


def _pause(run: training_pb2.Run, step: int) -> training_pb2.Pause:
    uri = f"fake://{run.run_id}/step-{step}"
    digest = "sha256:" + hashlib.sha256(uri.encode()).hexdigest()
    return training_pb2.Pause(step=step, model=common_pb2.ModelRef(uri=uri, digest=digest), reason="schedule")


def _event(number: int, run: training_pb2.Run) -> training_pb2.WatchRunResponse:
    time = Timestamp()
    time.GetCurrentTime()
    return training_pb2.WatchRunResponse(event=number, time=time, run=run)
