"""The gRPC face of the training service: checks, converts, calls, replies. Runs are worked by `supervisor.py`."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import grpc
import grpc.aio

from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.places import Roots
from burnish_services.runtime import wire
from burnish_services.runtime.config import ALL_ROLES
from burnish_services.runtime.directory_lock import DirectoryLock, DirectoryLocked, patiently
from burnish_services.runtime.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    ServiceError,
    Unavailable,
)
from burnish_services.runtime.readings import Reading
from burnish_services.runtime.role import Role, RoleContext, RoleUnavailable
from burnish_services.runtime.threads import while_wanted
from burnish_services.training import convert, state, uploads
from burnish_services.training.config import TrainingSettings
from burnish_services.training.core import MAX_REQUEST_ID, RunSpec, SpecError, check_spec, is_digest
from burnish_services.training.data_store import DataStore
from burnish_services.training.followers import Followers
from burnish_services.training.nodes import Board
from burnish_services.training.pausing import given_digest, write_pool
from burnish_services.training.pool import trouble_with
from burnish_services.training.readings import read_training
from burnish_services.training.remote import why_not_readable
from burnish_services.training.resolve import Site, resolve
from burnish_services.training.runs import RequestConflict, Resolved, Run, RunDamaged, RunStore
from burnish_services.training.sample_weights import read_snapshots
from burnish_services.training.sources import LOCAL, Located, Sources
from burnish_services.training.state import RunError, RunState
from burnish_services.training.supervisor import Supervisor

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_MAX_PAGE_BYTES = 2**20  # of runs, beyond the first; a run names every sample that it left out
_EVENTS_AT_A_TIME = 64
_FETCHES = 16
_NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"  # of no responses


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Implements burnish.api.training.v1.TrainingService on a store of runs."""

    def __init__(self, store: RunStore, supervisor: Supervisor, site: Site, info: training_pb2.GetInfoResponse) -> None:
        self._store = store
        self._supervisor = supervisor
        self._site = site
        self._info = info
        # Two requests with one id at the same time must find one run. Others need not wait: data may be on its way.
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Stores that are slow keep nobody from asyncio's own threads, which all roles of a process have.
        self._fetching = ThreadPoolExecutor(_FETCHES, "run-data")

    async def GetInfo(self, request: training_pb2.GetInfoRequest, context: Context) -> training_pb2.GetInfoResponse:
        """What runs here."""
        return self._info

    async def CreateRun(
        self, request: training_pb2.CreateRunRequest, context: Context
    ) -> training_pb2.CreateRunResponse:
        """The run of this request id, made if it is new."""
        if not 1 <= len(request.request_id) <= MAX_REQUEST_ID:
            raise InvalidRequest(
                "BAD_REQUEST_ID",
                f"request_id has {len(request.request_id)} characters, expected 1 to {MAX_REQUEST_ID}",
                field="request_id",
            )
        async with self._creating.setdefault(request.request_id, asyncio.Lock()):
            run = await self._find_or_create(request.request_id, convert.run_spec(request.spec))
        return training_pb2.CreateRunResponse(run=convert.run_message(run))

    async def UploadData(
        self, request_iterator: AsyncIterator[training_pb2.UploadDataRequest], context: Context
    ) -> training_pb2.UploadDataResponse:
        """Stores a data file that comes in pieces."""
        try:
            stored = await uploads.take_up(request_iterator, self._site.sources.store)
        except RunError as error:
            raise _refusal(error) from error
        return convert.upload_message(stored)

    async def GetRun(self, request: training_pb2.GetRunRequest, context: Context) -> training_pb2.GetRunResponse:
        """A run as it is now."""
        return training_pb2.GetRunResponse(run=convert.run_message(self._get(request.run_id)))

    async def ListRuns(self, request: training_pb2.ListRunsRequest, context: Context) -> training_pb2.ListRunsResponse:
        """A page of runs, newest first."""
        size = request.page_size or _DEFAULT_PAGE
        if not 1 <= size <= _MAX_PAGE:
            raise InvalidRequest(
                "BAD_PAGE_SIZE", f"page_size is {size}, expected 1 to {_MAX_PAGE}, or 0", field="page_size"
            )
        found = self._store.page(_before(request.page_token), size + 1)
        page, held = training_pb2.ListRunsResponse(), 0
        for run in found[:size]:
            message = convert.run_message(run)
            held += message.ByteSize()
            if page.runs and held > _MAX_PAGE_BYTES:
                break
            page.runs.append(message)
        if len(found) > len(page.runs):
            page.next_page_token = str(found[len(page.runs) - 1].record.sequence)
        return page

    async def ResumeRun(
        self, request: training_pb2.ResumeRunRequest, context: Context
    ) -> training_pb2.ResumeRunResponse:
        """Gives a paused run the responses that it waits for."""
        run = self._get(request.run_id)
        async with self._creating.setdefault(run.record.request_id, asyncio.Lock()):
            await self._resume(run, request)
        return training_pb2.ResumeRunResponse(run=convert.run_message(run))

    async def CancelRun(
        self, request: training_pb2.CancelRunRequest, context: Context
    ) -> training_pb2.CancelRunResponse:
        """Ends a run, a moment from now where it is being worked."""
        run = self._get(request.run_id)
        # Not between what ResumeRun sees and what it does.
        async with self._creating.setdefault(run.record.request_id, asyncio.Lock()):
            await self._supervisor.cancel(run)
        return training_pb2.CancelRunResponse(run=convert.run_message(run))

    async def WatchRun(
        self, request: training_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchRunResponse]:
        """The run's events as they come, until it has ended."""
        run = self._get(request.run_id)
        if request.from_event < 0:
            raise InvalidRequest(
                "BAD_EVENT", f"from_event is {request.from_event}, expected 0 or more", field="from_event"
            )
        if request.from_event > run.last.number + 1:
            raise PreconditionFailed(
                "EVENTS_GONE",
                f"run {request.run_id} has {run.last.number} events, and those from {request.from_event} on were asked"
                " for: it had more before this server lost its state, or a part of it; watch it from event 1",
            )
        reader = run.events.read_along(max(1, request.from_event))
        try:
            while True:
                last = run.last
                while events := await asyncio.to_thread(reader.read, _EVENTS_AT_A_TIME):
                    for event in events:
                        yield convert.event_message(run, event)
                if last.snapshot.state.ended:
                    return
                await run.changed_since(last.number)
        finally:
            reader.close()

    async def ReadSampleWeights(
        self, request: training_pb2.ReadSampleWeightsRequest, context: Context
    ) -> AsyncIterator[training_pb2.ReadSampleWeightsResponse]:
        """The weights that a run has learnt so far."""
        run = self._get(request.run_id)
        if run.record.resolved.selection is None:
            raise PreconditionFailed(
                "NO_WEIGHTS", f"run {request.run_id} learns no weights; those are runs that were created with `bilevel`"
            )
        snapshots = read_snapshots(run.directory.weights, request.after_step)
        while (snapshot := await asyncio.to_thread(next, snapshots, None)) is not None:
            for message in convert.weights_messages(snapshot):
                yield message

    async def _resume(self, run: Run, request: training_pb2.ResumeRunRequest) -> None:
        responses = await self._responses(request)
        digest = _NOTHING if responses is None else responses.digest
        given = await asyncio.to_thread(given_digest, run.directory, request.step)
        pause = run.snapshot.pause  # as it is once these are at hand, which may take long
        earlier = pause is not None and request.step < pause.step and given is not None
        if pause is None or (pause.step != request.step and not earlier):
            where = "has never paused" if pause is None else f"paused after step {pause.step} last"
            raise PreconditionFailed("NOT_PAUSED", f"run {run.record.run_id} {where}, not after step {request.step}")
        if run.snapshot.state is RunState.PAUSED and not earlier:
            path = None if responses is None else responses.path
            await asyncio.to_thread(write_pool, run.directory, pause.step, path, digest, last=request.last)
            if run.snapshot.state is not RunState.PAUSED:  # it had waited for too long in this very moment
                raise _waits_no_more(run)
            run.update(state.resumed(run.snapshot), time.time())
            self._supervisor.submit(run)
        elif given is None:
            raise _waits_no_more(run)
        elif given != digest:
            raise PreconditionFailed(
                "NOT_PAUSED", f"run {run.record.run_id} went on from step {request.step} with other responses already"
            )

    async def _responses(self, request: training_pb2.ResumeRunRequest) -> Located | None:
        """The file of the responses; None where the run goes on without any."""
        if not request.responses_uri:
            return None
        if request.responses_digest and not is_digest(request.responses_digest):
            raise InvalidRequest(
                "BAD_SPEC",
                f"responses_digest is {request.responses_digest[:100]!r}, expected sha256: and 64 lower-case"
                " hexadecimal digits",
                field="responses_digest",
            )
        locate = partial(self._site.sources.locate, request.responses_uri, request.responses_digest, "responses_uri")
        try:
            found = await while_wanted(self._fetching, locate)
        except SpecError as error:
            raise InvalidRequest("BAD_SPEC", str(error), field=error.field) from error
        except RunError as error:
            raise _refusal(error) from error
        try:
            problem = await asyncio.to_thread(trouble_with, found.path)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem:
            raise InvalidRequest(
                "BAD_RESPONSES", f"responses_uri: the first line of the responses {problem}", field="responses_uri"
            )
        return found

    def _get(self, run_id: str) -> Run:
        run = self._store.get(run_id)
        if run is None:
            raise NotFound("RUN_NOT_FOUND", f"there is no run {run_id!r}; ListRuns names those that this server knows")
        return run

    async def _find_or_create(self, request_id: str, spec: RunSpec) -> Run:
        try:
            run = self._store.find(request_id, spec)
            if run is None:
                await self._supervisor.clearer.cleared(spec.output_uri)
                output = self._store.directory_for(request_id).model
                resolved = await self._resolve(spec, output)
                run = self._store.create(request_id, spec, resolved)
                self._supervisor.submit(run)
        except RequestConflict as error:
            raise AlreadyExists("REQUEST_ID_USED", str(error)) from error
        except RunDamaged as error:
            raise PreconditionFailed("RUN_DAMAGED", str(error)) from error
        except SpecError as error:
            raise InvalidRequest("BAD_SPEC", str(error), field=f"spec.{error.field}") from error
        except RunError as error:
            raise _refusal(error) from error
        return run

    def close(self) -> None:
        """Begins to fetch nothing more."""
        self._fetching.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, spec: RunSpec, output: Path) -> Resolved:
        return await while_wanted(self._fetching, partial(resolve, spec, check_spec(spec), self._site, output))


def _waits_no_more(run: Run) -> ServiceError:
    return PreconditionFailed(
        "NOT_PAUSED", f"run {run.record.run_id} is {run.snapshot.state}, and waits for no responses any more"
    )


def _refusal(error: RunError) -> ServiceError:
    failure = error.failure
    if failure.code == grpc.StatusCode.UNAVAILABLE.name:
        return Unavailable(failure.reason, failure.message, retry_after=5.0)
    return ServiceError(grpc.StatusCode[failure.code], failure.reason, failure.message)


def _before(page_token: str) -> int | None:
    if not page_token:
        return None
    if not page_token.isascii() or not page_token.isdigit():
        raise InvalidRequest(
            "BAD_PAGE_TOKEN",
            f"page_token is {page_token[:64]!r}; expected a next_page_token of this service, or nothing",
            field="page_token",
        )
    return int(page_token)


class TrainingRole(Role):
    """The training service in a server process. Takes its state at once: that another server has it should be known
    before an engine is started."""

    name = "training"
    service_full_name: str = training_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name

    def __init__(self, context: RoleContext, settings: TrainingSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        self.max_concurrent_streams = settings.max_concurrent_streams
        fake = context.settings.engine == "fake"
        state = context.state_directory("training")
        self._store = RunStore(state)
        self._data = DataStore(
            state / "data",
            settings.max_data_bytes,
            settings.keep_data_seconds,
            self._store.data_in_use,
            settings.max_stored_bytes,
        )
        site = Site(
            trainer="fake" if fake else "sft",
            chat_template=context.settings.chat_template,
            sources=_sources(settings, self._data, context.settings.roots),
            models=context.models,
            kept=tuple(context.settings.state_dir / name for name in (*ALL_ROLES, "models", "merged")),
            processes=1 if fake else settings.worker_processes * settings.nodes,
            nodes=1 if fake else settings.nodes,
        )
        self._lock = None if settings.nodes > 1 else _locked(state, context.patience + settings.stop_seconds)
        followers = Followers(Board(state), context.version, settings.endpoint, settings.lease_seconds)
        worker_options = context.settings.model_cache_options
        self._supervisor = Supervisor(self._store, self._data, settings, followers, worker_options)
        info = wire.server_info(
            version=context.version,
            engine=f"fake/{context.version}" if fake else f"transformers/{metadata.version('transformers')}",
            held=None,
            max_items=1,
            process=context.settings,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_concurrent_streams=settings.max_concurrent_streams,
            notes=("the fake trainer only pretends to train",) if fake else (),
        )
        said = training_pb2.GetInfoResponse(info=info, max_data_bytes=settings.max_data_bytes)
        self._servicer = TrainingServicer(self._store, self._supervisor, site, said)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self._servicer, server)

    def readings(self) -> Iterable[Reading]:
        """See Role."""
        yield from read_training(self._store, self._supervisor.tally)
        with suppress(OSError):  # a disk that fails hides nothing else
            stored = self._data.stored_bytes()
            yield Reading("training_stored_bytes", "Bytes of uploaded and fetched data that are kept.", stored)

    async def start(self) -> None:
        """Takes up the runs that an earlier server left."""
        await asyncio.to_thread(self._data.remove_unfinished)
        await asyncio.to_thread(self._store.load)
        await self._supervisor.start()

    async def close(self) -> None:
        """Stops the worker; its run goes on with the next server."""
        self._servicer.close()
        await self._supervisor.close()
        if self._lock is not None:
            self._lock.release()


def _locked(state: Path, patience: float) -> DirectoryLock | None:
    """None where there are no locks, as on what several machines may share."""
    try:
        return patiently(partial(DirectoryLock, state, "the state of training"), patience)
    except DirectoryLocked as error:
        raise RoleUnavailable(str(error)) from error
    except OSError as error:
        log.warning("%s cannot be locked, so that nothing keeps a second server away: %s", state, error)
        return None


def _sources(settings: TrainingSettings, store: DataStore, roots: Roots) -> Sources:
    for scheme in settings.data_schemes:
        if scheme != LOCAL and (missing := why_not_readable(scheme)) is not None:
            raise RoleUnavailable(
                f"data cannot be read from {scheme}:// URIs here: {missing}; install what is missing, or take "
                f"{scheme} out of BURNISH_TRAINING_DATA_SCHEMES"
            )
    return Sources(settings.data_schemes, store, roots)


def create(context: RoleContext) -> Role:
    """The role `training`, with its limits from the environment."""
    return TrainingRole(context, TrainingSettings())
