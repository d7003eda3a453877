"""One engine, many users, many models: who may use which weights when.

`ModelHost` gives every user the weights it names. Users of the held weights work side by side; a user of others waits
until the work in flight is done, then the weights are swapped in place, checked with the canary, and served. Owns
fairness, the swap, going back after a failed one, starting an engine anew whose process ended, and the version that
replies state; not the engine's computations.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from burnish_services.engine import canary
from burnish_services.engine.adapters import MergedModels
from burnish_services.engine.base import Engine, EngineDead, EngineRestarting, ModelDigestMismatch, ModelLoadError
from burnish_services.engine.digesting import Digesting
from burnish_services.engine.model_cache import Lease
from burnish_services.engine.model_digests import ModelDigests, model_digests
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.restarts import Restarts

log = logging.getLogger(__name__)


class ModelName(Protocol):
    """What names a model; `burnish.api.common.v1.ModelRef` is one. Empty uri: the held model; empty digest: any."""

    @property
    def uri(self) -> str:
        """A path, a `file://` URI or a place in object storage, or empty."""

    @property
    def digest(self) -> str:
        """The digest the content must have, or empty."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A ModelName without protobuf."""

    uri: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The weights a user holds; the first five fields are those of `burnish.api.common.v1.ModelVersion`."""

    uri: str
    digest: str
    engine: str
    dtype: str
    chat_template_digest: str
    max_model_len: int  # tokens
    queue_seconds: float = 0.0  # that this user waited, the swap included
    swap_seconds: float = 0.0  # of these, loading and checking weights


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Weights on disk. `digests` None: whatever is held when the turn comes."""

    lease: Lease | None
    digests: ModelDigests | None


@dataclass(eq=False, slots=True)
class _Waiter:
    wanted: _Wanted
    admitted: asyncio.Future[float]  # swap seconds
    arrived: float = field(default_factory=time.monotonic)


class ModelHost:
    """Serialises swaps of one engine against its use.

    Fair in turns: once someone waits for other weights, newcomers queue behind, the work in flight is let finish,
    and the swap then admits everyone who is queued for the new weights at that moment. `using` must not be nested.

    An engine whose process ends takes down what is in flight; it is then started anew on the same weights, while who
    comes waits. `again` makes the engine for a model directory; without it, or beyond `restarts`, the host is dead.
    Users may name what `models` finds (None: any directory), and adapters, where there is a place for the models
    `merged` from them.
    """

    def __init__(
        self,
        engine: Engine,
        again: Callable[[str], Engine] | None = None,
        restarts: Restarts | None = None,
        models: ModelStore | None = None,
        merged: MergedModels | None = None,
    ) -> None:
        self._engine = engine
        self._models = models or ModelStore()
        self._merged = merged
        self._again = again
        self._restarts = restarts or Restarts(0)
        self._reviving = False
        self._score_method = ""
        self._held: ModelVersion | None = None
        self._lease: Lease | None = None  # of what is held, or was last
        self._digests: ModelDigests | None = None
        self._digesting = Digesting()
        self._readings: dict[str, canary.Reading] = {}
        # Of what was loaded last: the digest of the tensors, an adapter's merged into its base's.
        self._last: tuple[str, canary.Reading] | None = None
        self._queue: list[_Waiter] = []
        self._active = 0
        self._left = asyncio.Event()  # somebody has; `_active` says whether all
        self._swap: asyncio.Task[None] | None = None
        self._dead: EngineDead | None = None
        self._closed = False

    @property
    def engine(self) -> Engine:
        """The engine; its methods may be called inside `using` only."""
        return self._engine

    @property
    def score_method(self) -> str:
        """The engine's, which a restart does not change; empty before `start`."""
        return self._score_method

    @property
    def version(self) -> ModelVersion | None:
        """The weights held now; None before `start`, while swapping, and where none could be loaded."""
        return None if self._swap is not None else self._held

    @property
    def waiting(self) -> int:
        """Users waiting for their turn."""
        return len(self._queue)

    @property
    def restarts(self) -> int:
        """How often the engine has been started anew."""
        return self._restarts.total

    @property
    def dead(self) -> EngineDead | None:
        """Why the engine can never work again, once that is known."""
        return self._dead

    async def start(self, model: str = "") -> None:
        """Starts the engine and checks the canary on its first weights: those that it was made for, or the `model` in
        object storage, for which it is made anew. Raises ModelLoadError."""
        if model:
            assert self._again is not None
            self._hold(await self._models.borrow(model, own=True))
            assert self._lease is not None
            self._engine = self._again(str(self._lease.path))
        await self._engine.start()
        self._score_method = self._engine.score_method
        if self._lease is None:
            self._hold(await self._models.borrow(self._engine.model.uri, own=True))
        assert self._lease is not None
        path = self._lease.path
        self._digests = await asyncio.to_thread(model_digests, path)
        loaded = await asyncio.to_thread(model_digests, Path(self._engine.model.uri))  # merged, where it is an adapter
        await self._check_canary(path, self._digests, loaded.weights)
        self._held = replace(self._describe(), uri=self._lease.uri, digest=self._digests.model)

    async def close(self) -> None:
        """Ends the engine; whoever still waits gets EngineDead. Safe to call twice."""
        self._closed = True
        self._digesting.close()
        self._fail_all(EngineDead("the server is shutting down"))
        if self._swap is not None:
            if self._reviving:
                self._swap.cancel()
            await asyncio.gather(self._swap, return_exceptions=True)
        await self._engine.close()
        if self._lease is not None:
            self._lease.release()

    async def check_health(self) -> None:
        """Raises EngineDead where the engine can never work again, and starts it anew where it can; cheap enough to be
        asked every few seconds."""
        try:
            if self._swap is None:  # else whoever loads weights finds out
                await self._engine.check_health()
        except EngineDead as error:
            self._lost(error)
        if self._dead is not None:
            raise EngineDead(str(self._dead)) from self._dead

    @asynccontextmanager
    async def using(self, name: ModelName | None = None) -> AsyncIterator[ModelVersion]:
        """Holds the named weights still for the body of the `async with`, swapping them in where needed.

        Raises ModelLoadError (ModelNotFound, ModelNotAllowed, ModelDigestMismatch, ModelMismatch, CanaryFailed), after
        which the weights held before serve on, EngineRestarting where the engine's process ends meanwhile, and
        EngineDead where it cannot be started anew.
        """
        arrived = time.monotonic()
        wanted = await self._resolve(name or ModelReference())
        try:
            swap_seconds = await self._admit(wanted)
        finally:
            if wanted.lease is not None:
                wanted.lease.release()  # what is held has a lease of the host's
        try:
            if self._held is None:  # lost between being admitted and going on
                raise EngineDead("the engine was lost")
            self._check_digest(name, self._held)
            yield replace(self._held, queue_seconds=time.monotonic() - arrived, swap_seconds=swap_seconds)
        except EngineDead as error:
            raise self._lost(error) from error
        finally:
            self._active -= 1
            self._left.set()
            self._pump()

    # --- who is next -------------------------------------------------------------------------------------------

    async def _resolve(self, name: ModelName) -> _Wanted:
        if not name.uri:
            return _Wanted(None, None)
        lease = await self._models.borrow(name.uri, name.digest)
        try:
            digests = await self._digesting.of(lease.path)
            if name.digest and name.digest != digests.model:
                raise ModelDigestMismatch(
                    f"the model at {name.uri} has digest {digests.model}, expected {name.digest}: its content is not"
                    " what the request was made for"
                )
        except BaseException:
            lease.release()
            raise
        return _Wanted(lease, digests)

    def _hold(self, lease: Lease) -> None:
        if self._lease is not None:
            self._lease.release()
        self._lease = lease

    def _check_digest(self, name: ModelName | None, held: ModelVersion) -> None:
        if name is not None and not name.uri and name.digest and name.digest != held.digest:
            raise ModelDigestMismatch(
                f"the held model has digest {held.digest}, expected {name.digest}; name a uri to have it loaded"
            )

    async def _admit(self, wanted: _Wanted) -> float:
        if self._dead is not None:
            raise EngineDead(str(self._dead)) from self._dead
        if self._closed:
            raise EngineDead("the server is shutting down")
        waiter = _Waiter(wanted, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._pump()
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif waiter.admitted.done() and not waiter.admitted.cancelled() and not waiter.admitted.exception():
                self._active -= 1  # admitted and cancelled in the same moment
                self._left.set()
            self._pump()
            raise

    def _pump(self) -> None:
        """Admits from the head of the queue while it wants what is held; starts the swap it needs otherwise."""
        while self._queue and self._swap is None:
            if self._queue[0].admitted.done():  # cancelled; its owner has not run yet
                self._queue.pop(0)
            elif self._fits(self._queue[0].wanted):
                self._let_in(self._queue.pop(0), 0.0)
            elif self._queue[0].wanted.digests is None:
                self._refuse(
                    self._queue.pop(0), ModelLoadError("no model is held: the last ones could not be loaded; name one")
                )
            elif self._active == 0:
                wanted = self._queue[0].wanted
                assert wanted.lease is not None
                # With a lease of its own: who asked may be gone before the weights are there.
                self._swap = asyncio.create_task(self._serve_swap(replace(wanted, lease=wanted.lease.share())))
            else:
                return

    def _fits(self, wanted: _Wanted) -> bool:
        if self._held is None:
            return False
        return wanted.digests is None or wanted.digests.model == self._held.digest

    def _let_in(self, waiter: _Waiter, swap_seconds: float) -> None:
        self._active += 1
        waiter.admitted.set_result(swap_seconds)

    def _refuse(self, waiter: _Waiter, error: Exception) -> None:
        if not waiter.admitted.done():
            waiter.admitted.set_exception(error)

    def _fail_all(self, error: Exception) -> None:
        queue, self._queue = self._queue, []
        for waiter in queue:
            self._refuse(waiter, error)

    def _die(self, error: EngineDead) -> None:
        if self._dead is None:
            self._dead = error
            log.error("engine is dead: %s", error)
        self._fail_all(error)

    # --- starting anew -----------------------------------------------------------------------------------------

    def _lost(self, error: EngineDead) -> EngineDead | EngineRestarting:
        """Has the engine started anew, if it may be; what to tell who was using it."""
        if self._dead is None and not self._reviving:
            if self._again is None or self._closed or not self._restarts.take():
                self._die(error)
            else:
                log.error("engine lost, starting it anew: %s", error)
                self._reviving, self._held = True, None
                self._swap = asyncio.create_task(self._revive(self._again))
        if self._dead is not None:
            return error
        return EngineRestarting(f"{error}; it is being started anew")

    async def _revive(self, again: Callable[[str], Engine]) -> None:
        path = Path(self._engine.model.uri) if self._lease is None else self._lease.path
        try:
            while self._active:  # their requests have failed; they are on their way out
                self._left.clear()
                await self._left.wait()
            await self._engine.close()
            self._engine, self._digests = again(str(await asyncio.to_thread(self._whole, path))), None
            self._last = None
            await self.start()
            log.warning("engine started anew on %s", path)
        except Exception as error:
            self._die(EngineDead(f"the engine could not be started anew: {error}"))
        finally:
            self._swap, self._reviving = None, False
        self._pump()

    # --- swapping ----------------------------------------------------------------------------------------------

    async def _serve_swap(self, wanted: _Wanted) -> None:
        """Swaps for everyone who is queued for these weights when it is done; on failure refuses them."""
        begin = time.monotonic()
        error: Exception | None = None
        try:
            await self._swap_or_restore(wanted)
        except EngineDead as death:
            self._swap = None
            self._lost(death)
            return  # who waits is served by the engine that is started anew, or has been told
        except Exception as failure:
            error = failure
        finally:
            if not self._reviving:
                self._swap = None
        seconds = time.monotonic() - begin
        for waiter in [w for w in self._queue if w.wanted.digests == wanted.digests and not w.admitted.done()]:
            self._queue.remove(waiter)
            if error is not None:
                self._refuse(waiter, error)
            else:
                self._let_in(waiter, seconds)
        self._pump()

    async def _swap_or_restore(self, wanted: _Wanted) -> None:
        assert wanted.lease is not None
        assert wanted.digests is not None
        before, digests_before, self._held = self._held, self._digests, None
        lease = wanted.lease
        try:
            await self._load(lease, wanted.digests)
        except EngineDead:
            lease.release()
            raise
        except Exception as error:
            log.warning("cannot serve %s: %s", lease.uri, error)
            lease.release()
            if before is not None and self._lease is not None and digests_before is not None:
                await self._restore(self._lease, digests_before)
            if isinstance(error, ModelLoadError):
                raise
            raise ModelLoadError(f"{lease.uri} could not be loaded: {error!r}") from error
        self._hold(lease)
        log.info("serving %s (%s)", lease.uri, wanted.digests.model)

    async def _restore(self, lease: Lease, digests: ModelDigests) -> None:
        try:
            await self._load(lease, digests)
        except EngineDead:
            raise
        except Exception as error:
            log.exception(
                "the weights held before, %s, could not be restored (%r); none are held now", lease.uri, error
            )

    async def _load(self, lease: Lease, digests: ModelDigests) -> None:
        path = lease.path
        whole = await asyncio.to_thread(self._whole, path)
        await self._engine.swap(str(whole), digests.model)
        if await asyncio.to_thread(model_digests, path) != digests:
            raise ModelLoadError(f"{path} changed while it was loaded; publish models by renaming a finished directory")
        await self._check_canary(path, digests, (await asyncio.to_thread(model_digests, whole)).weights)
        self._digests = digests
        self._held = replace(self._describe(), uri=lease.uri)

    def _whole(self, path: Path) -> Path:
        return path if self._merged is None else self._merged.whole(path)

    async def _check_canary(self, path: Path, digests: ModelDigests, weights: str) -> None:
        reading = await canary.read(self._engine, canary.canary_ids(self._engine.tokenizer))
        before = self._readings.get(digests.model)
        if before is not None:
            canary.check_repeats(reading, before)
        elif self._last is not None and self._last[0] != weights:
            canary.check_differs(reading, self._last[1])
        await canary.check_card(self._engine, path)
        self._readings[digests.model], self._last = reading, (weights, reading)

    def _describe(self) -> ModelVersion:
        model = self._engine.model
        return ModelVersion(
            uri=model.uri,
            digest=model.digest,
            engine=self._engine.name,
            dtype=model.dtype,
            chat_template_digest=self._engine.tokenizer.template_digest,
            max_model_len=model.max_model_len,
        )
