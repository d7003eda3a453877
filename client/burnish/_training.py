"""`client.training`: supervised fine-tuning runs, as handles that can be watched, cancelled and waited for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from burnish import _convert, _convert_replies, _uploads
from burnish._errors import AccessDenied, AlreadyExists, DeadlineExceeded, NotFound, PreconditionFailed, RunFailed
from burnish._loop import BackgroundLoop
from burnish._service import AsyncService, Service
from burnish._training_types import SampleWeights, UploadedData
from burnish._types import RunEvent, RunResult, RunSnapshot, RunSpec, RunState, ServerInfo
from burnish.api.training.v1 import training_pb2 as pb
from burnish.api.training.v1 import training_pb2_grpc

if TYPE_CHECKING:
    from burnish.api.training.v1.training_pb2_grpc import TrainingServiceAsyncStub

# ruff: noqa: ASYNC109 - every `timeout` but that of `result` is a gRPC deadline

# Why a run cannot be watched on: the service lost its state, or the last of it, and counts the events anew.
EVENTS_GONE = "EVENTS_GONE"


class AsyncTraining(AsyncService):
    """The training service. `timeout` is in seconds for each request to the service."""

    @cached_property
    def _stub(self) -> TrainingServiceAsyncStub:
        return training_pb2_grpc.TrainingServiceStub(self._link.channel())

    async def info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server runs and its limits; quick."""
        reply = await self._link.call("GetInfo", self._stub.GetInfo, pb.GetInfoRequest(), timeout=timeout)
        return _convert.info_from_proto(reply.info)

    async def upload(self, content: _uploads.Content, *, timeout: float | None = None) -> UploadedData:
        """Gives the service a data file: a path (also as str), its bytes, or pieces of them. Runs may name it by the
        `uri` returned. Safe to repeat; what breaks off leaves nothing behind. Raises UsageError, OSError and
        ServiceError."""
        largest = min(self._link.options.max_message_bytes, (await self._allowed()).max_message_bytes)
        with ExitStack() as stack:
            stream = await asyncio.to_thread(stack.enter_context, _uploads.opened(content))
            digest = await asyncio.to_thread(_uploads.digest_of, stream)
            reply = await self._link.send(
                "UploadData",
                self._stub.UploadData,
                lambda: _uploads.messages(stream, digest, largest),
                timeout=timeout,
            )
        return UploadedData(uri=reply.uri, digest=reply.digest, size=reply.size_bytes, num_lines=reply.num_lines)

    async def create(
        self, spec: RunSpec, request_id: str | None = None, *, upload: bool = False, timeout: float | None = None
    ) -> AsyncRun:
        """Creates a run and returns once the service has its data; the run goes on without the client.

        `request_id` (1 to 128 characters) makes this safe to repeat: the same id returns the same run, or raises
        AlreadyExists if that has another spec. None takes a new id. `upload`: data files of this machine that the
        service cannot read by their paths are uploaded, and the run's spec names the uploads. Repeating is as safe:
        whichever of the two the run was created from, it is found. Raises UsageError, OSError and ServiceError.
        """
        name = uuid.uuid4().hex if request_id is None else request_id
        try:
            return await self._create(spec, name, timeout)
        except (AccessDenied, AlreadyExists, NotFound, PreconditionFailed) as error:
            files = _uploads.local_files(spec) if upload and error.reason in _uploads.REMEDIED else {}
            if not files:
                raise
        return await self._create_uploaded(spec, files, name, timeout)

    async def _create_uploaded(
        self, spec: RunSpec, files: dict[str, Path], request_id: str, timeout: float | None
    ) -> AsyncRun:
        uris = {uri: _uploads.UPLOAD + await asyncio.to_thread(_file_digest, path) for uri, path in files.items()}
        there = _uploads.renamed(spec, uris)
        try:
            # The run may exist, and the service may have the files from an earlier one.
            return await self._create(there, request_id, timeout)
        except NotFound as error:
            if error.reason != "DATA_NOT_FOUND":
                raise
        for path in files.values():
            await self.upload(path, timeout=timeout)
        return await self._create(there, request_id, timeout)

    async def _create(self, spec: RunSpec, request_id: str, timeout: float | None) -> AsyncRun:
        request = pb.CreateRunRequest(request_id=request_id, spec=_convert.run_spec_to_proto(spec))
        reply = await self._link.call("CreateRun", self._stub.CreateRun, request, timeout=timeout)
        return AsyncRun(self, self._snapshot("CreateRun", reply.run))

    async def get(self, run_id: str, *, timeout: float | None = None) -> AsyncRun:
        """A handle to an existing run. Raises NotFound."""
        return AsyncRun(self, await self._get(run_id, timeout))

    async def list(self, *, timeout: float | None = None) -> tuple[AsyncRun, ...]:
        """Handles to all runs, newest first."""
        found: list[AsyncRun] = []
        token = ""
        while True:
            request = pb.ListRunsRequest(page_size=1000, page_token=token)
            reply = await self._link.call("ListRuns", self._stub.ListRuns, request, timeout=timeout)
            found += (AsyncRun(self, self._snapshot("ListRuns", run)) for run in reply.runs)
            token = reply.next_page_token
            if not token:
                return tuple(found)

    async def _get(self, run_id: str, timeout: float | None) -> RunSnapshot:
        request = pb.GetRunRequest(run_id=run_id)
        reply = await self._link.call("GetRun", self._stub.GetRun, request, timeout=timeout)
        return self._snapshot("GetRun", reply.run)

    async def _cancel(self, run_id: str, timeout: float | None) -> RunSnapshot:
        request = pb.CancelRunRequest(run_id=run_id)
        reply = await self._link.call("CancelRun", self._stub.CancelRun, request, timeout=timeout)
        return self._snapshot("CancelRun", reply.run)

    async def _resume(self, request: pb.ResumeRunRequest, timeout: float | None, *, upload: bool) -> RunSnapshot:
        try:
            return await self._resume_as(request, timeout)
        except (AccessDenied, NotFound, PreconditionFailed) as error:
            path = _uploads.local_file(request.responses_uri) if upload and error.reason in _uploads.REMEDIED else None
            if path is None:
                raise
        uploaded = await self.upload(path, timeout=timeout)
        request.responses_uri, request.responses_digest = uploaded.uri, uploaded.digest
        return await self._resume_as(request, timeout)

    async def _resume_as(self, request: pb.ResumeRunRequest, timeout: float | None) -> RunSnapshot:
        reply = await self._link.call("ResumeRun", self._stub.ResumeRun, request, timeout=timeout)
        return self._snapshot("ResumeRun", reply.run)

    async def _watch(self, run_id: str, from_event: int) -> AsyncGenerator[RunEvent, None]:
        """Events from `from_event` on up to the run's last, across broken connections and restarted servers."""
        expected = max(1, from_event)
        known_to_have_ended = False

        def request() -> pb.WatchRunRequest:
            return pb.WatchRunRequest(run_id=run_id, from_event=expected)

        while True:
            before = expected
            stream = self._link.stream("WatchRun", self._stub.WatchRun, request)
            async with aclosing(stream):
                async for reply in stream:
                    with self._link.reading("WatchRun"):
                        event = _convert_replies.event_from_proto(reply)
                        if event.number != expected:
                            raise ValueError(f"event {event.number} came where {expected} was expected")
                    expected += 1
                    yield event
                    if event.run.state.ended:
                        return
            # The stream ended without the run's last event: either the server stops, or all was over before
            # `from_event`. Only once the run is known to have ended does silence mean that nothing more will come.
            if known_to_have_ended and expected == before:
                return
            known_to_have_ended = (await self._get(run_id, None)).state.ended
            if not known_to_have_ended:
                await asyncio.sleep(self._link.options.initial_backoff)

    async def _sample_weights(self, run_id: str, after_step: int) -> AsyncGenerator[SampleWeights, None]:
        """Snapshots after more than `after_step` steps, across broken connections."""
        last = after_step
        parts: list[pb.ReadSampleWeightsResponse] = []

        def request() -> pb.ReadSampleWeightsRequest:
            parts.clear()  # a snapshot that broke off comes again as a whole
            return pb.ReadSampleWeightsRequest(run_id=run_id, after_step=last)

        stream = self._link.stream("ReadSampleWeights", self._stub.ReadSampleWeights, request)
        async with aclosing(stream):
            async for reply in stream:
                parts.append(reply)
                if sum(len(part.weights) for part in parts) < reply.num_samples:
                    continue
                snapshot = _convert_replies.weights_from_proto(parts)
                parts.clear()
                last = snapshot.step
                yield snapshot

    def _snapshot(self, method: str, run: pb.Run) -> RunSnapshot:
        with self._link.reading(method):
            return _convert_replies.run_from_proto(run)


class AsyncRun:
    """One training run. `snapshot` is the run as of creation, the last refresh or cancel, or its end if seen."""

    def __init__(self, training: AsyncTraining, snapshot: RunSnapshot) -> None:
        self._training = training
        self.snapshot = snapshot

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id} {self.snapshot.state}>"

    @property
    def run_id(self) -> str:
        """The name that the service gave the run."""
        return self.snapshot.run_id

    async def refresh(self, *, timeout: float | None = None) -> RunSnapshot:
        """The run as it is now."""
        self.snapshot = await self._training._get(self.run_id, timeout)
        return self.snapshot

    async def watch(self, from_event: int = 1) -> AsyncGenerator[RunEvent, None]:
        """The run's events from number `from_event` (1 is the first) on, then those to come, until the run ends.

        Goes on by itself, without gaps or repetitions, when the connection breaks or the server restarts. Raises
        ServiceError where the server stays away, and PreconditionFailed (EVENTS_GONE) where it has lost events that
        were seen: watch from 1.
        """
        events = self._training._watch(self.run_id, from_event)
        async with aclosing(events):
            async for event in events:
                if event.run.state.ended:
                    self.snapshot = event.run
                yield event

    async def sample_weights(self, after_step: int = 0) -> AsyncGenerator[SampleWeights, None]:
        """The weights that a run with `bilevel` has learnt so far: a snapshot after each epoch and at the end, those
        after more than `after_step` steps, in order. Raises PreconditionFailed for a run without."""
        snapshots = self._training._sample_weights(self.run_id, after_step)
        async with aclosing(snapshots):
            async for snapshot in snapshots:
                yield snapshot

    async def resume(
        self,
        step: int,
        responses_uri: str = "",
        responses_digest: str = "",
        *,
        last: bool = False,
        upload: bool = False,
        timeout: float | None = None,
    ) -> RunSnapshot:
        """Ends the pause after `step` with the responses that are at the URI (see training.proto), or without any. Safe
        to repeat. `last`: the run does not pause again. `upload`: a file of this machine that the service cannot read
        by its path is uploaded. Raises PreconditionFailed where the run waits for nothing."""
        request = pb.ResumeRunRequest(
            run_id=self.run_id, step=step, responses_uri=responses_uri, responses_digest=responses_digest, last=last
        )
        self.snapshot = await self._training._resume(request, timeout, upload=upload)
        return self.snapshot

    async def cancel(self, *, timeout: float | None = None) -> RunSnapshot:
        """Asks the run to stop, which it does within a step; one that has ended stays as it is."""
        self.snapshot = await self._training._cancel(self.run_id, timeout)
        return self.snapshot

    async def result(self, *, timeout: float | None = None) -> RunResult:
        """Waits until the run has ended, for `timeout` seconds or as long as it takes, and returns what it made.

        Raises RunFailed where it failed or was cancelled, DeadlineExceeded where it goes on beyond the timeout.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._until_ended()
        except TimeoutError:
            address = self._training.address
            raise DeadlineExceeded(
                f"training service at {address}: run {self.run_id} has not ended within {timeout:g} s. It goes on: ask "
                "again with a longer timeout, or cancel it",
                service="training",
                address=address,
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from None
        run = self.snapshot
        if run.state is RunState.SUCCEEDED and run.result is not None:
            return run.result
        raise RunFailed(_explain(run), run)

    async def _until_ended(self) -> None:
        while not self.snapshot.state.ended:
            try:
                async for _ in self.watch():
                    pass
            except PreconditionFailed as error:
                if error.reason != EVENTS_GONE:
                    raise
            await self.refresh()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return _uploads.digest_of(stream)


def _explain(run: RunSnapshot) -> str:
    at = f"at step {run.progress.step} of {run.progress.total_steps or 'unknown many'}"
    label = f" [{run.error.reason}]" if run.error is not None and run.error.reason else ""
    why = f": {run.error.message}{label}" if run.error is not None else ""
    if run.state is RunState.CANCELLED:
        return f"training run {run.run_id} was cancelled {at}{why}"
    if run.error is None:
        return f"training run {run.run_id} ended as {run.state} {at}, without a result or an error"
    return f"training run {run.run_id} failed {at}{why}"


class Training(Service):
    """The training service, synchronous; see AsyncTraining."""

    def __init__(self, loop: BackgroundLoop, twin: AsyncTraining) -> None:
        super().__init__(loop)
        self._twin = twin

    @property
    def address(self) -> str:
        """See AsyncTraining.address."""
        return self._twin.address

    def info(self, *, timeout: float | None = None) -> ServerInfo:
        """See AsyncTraining.info."""
        return self._loop.run(self._twin.info(timeout=timeout))

    def upload(self, content: _uploads.Content, *, timeout: float | None = None) -> UploadedData:
        """See AsyncTraining.upload."""
        return self._loop.run(self._twin.upload(content, timeout=timeout))

    def create(
        self, spec: RunSpec, request_id: str | None = None, *, upload: bool = False, timeout: float | None = None
    ) -> Run:
        """See AsyncTraining.create."""
        return Run(self._loop, self._loop.run(self._twin.create(spec, request_id, upload=upload, timeout=timeout)))

    def get(self, run_id: str, *, timeout: float | None = None) -> Run:
        """See AsyncTraining.get."""
        return Run(self._loop, self._loop.run(self._twin.get(run_id, timeout=timeout)))

    def list(self, *, timeout: float | None = None) -> tuple[Run, ...]:
        """See AsyncTraining.list."""
        return tuple(Run(self._loop, run) for run in self._loop.run(self._twin.list(timeout=timeout)))


class Run:
    """One training run, synchronous; see AsyncRun."""

    def __init__(self, loop: BackgroundLoop, twin: AsyncRun) -> None:
        self._loop = loop
        self._twin = twin

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id} {self.snapshot.state}>"

    @property
    def snapshot(self) -> RunSnapshot:
        """See AsyncRun."""
        return self._twin.snapshot

    @property
    def run_id(self) -> str:
        """See AsyncRun.run_id."""
        return self._twin.run_id

    def refresh(self, *, timeout: float | None = None) -> RunSnapshot:
        """See AsyncRun.refresh."""
        return self._loop.run(self._twin.refresh(timeout=timeout))

    def watch(self, from_event: int = 1) -> Generator[RunEvent, None, None]:
        """See AsyncRun.watch."""
        return self._loop.iterate(self._twin.watch(from_event))

    def sample_weights(self, after_step: int = 0) -> Generator[SampleWeights, None, None]:
        """See AsyncRun.sample_weights."""
        return self._loop.iterate(self._twin.sample_weights(after_step))

    def resume(
        self,
        step: int,
        responses_uri: str = "",
        responses_digest: str = "",
        *,
        last: bool = False,
        upload: bool = False,
        timeout: float | None = None,
    ) -> RunSnapshot:
        """See AsyncRun.resume."""
        return self._loop.run(
            self._twin.resume(step, responses_uri, responses_digest, last=last, upload=upload, timeout=timeout)
        )

    def cancel(self, *, timeout: float | None = None) -> RunSnapshot:
        """See AsyncRun.cancel."""
        return self._loop.run(self._twin.cancel(timeout=timeout))

    def result(self, *, timeout: float | None = None) -> RunResult:
        """See AsyncRun.result."""
        return self._loop.run(self._twin.result(timeout=timeout))
