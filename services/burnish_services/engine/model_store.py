"""Models by their URI, wherever they lie: a directory of this machine as it is, one in object storage fetched into the
cache. Whoever uses a model holds a lease on its directory meanwhile.

An adapter whose base is in object storage becomes an entry of its own in the cache, which names its base's directory
here; so nobody further in needs to know where anything came from.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from burnish_services.engine.base import ModelLoadError, ModelUnreachable
from burnish_services.engine.model_cache import Lease, ModelCache
from burnish_services.engine.models import adapter_base, adapter_base_name, resolve_uri, write_adapter_base
from burnish_services.engine.object_models import ModelListing, belongs_to_model, fetch_model, list_model, object_place
from burnish_services.engine.object_places import ObjectChanged, ObjectPlace, is_object_uri
from burnish_services.engine.places import Roots

_TRIES = 4  # where a model is replaced while it is fetched
_FETCHES = 4  # at a time; of one model there is one
_LOOKS = 8  # at a time


@dataclass(slots=True)
class _Fetch:
    task: asyncio.Future[Lease]
    waiting: int = 0


class ModelStore:
    """Finds models for who may name what is in `roots`. Without a cache, those of this machine only."""

    def __init__(self, cache: ModelCache | None = None, roots: Roots | None = None) -> None:
        self._cache = cache
        self._roots = roots or Roots()
        self._fetches: dict[tuple[str, str], _Fetch] = {}
        self._stopped = threading.Event()
        self._looking = ThreadPoolExecutor(_LOOKS, "model-looks")
        self._fetching = ThreadPoolExecutor(_FETCHES, "models")

    def lease(self, uri: str, digest: str = "", *, own: bool = False) -> Lease:
        """The model at `uri`, fetched where it is not here, adapters with their base. Where it was fetched before and
        `digest` is its digest, the store is not asked. `own`: it is the server that names it, and no caller. Blocking.
        Raises ModelNotFound, ModelNotAllowed, ModelUnreachable, ModelLoadError, OSError."""
        roots = Roots() if own else self._roots
        if not is_object_uri(uri):
            path, found = self._here(uri, digest, roots)
            return found if found is not None else self._with_base(Lease(str(path), path), roots)
        place = object_place(uri, roots)
        found = self._find(place, uri, digest, roots)
        return found if found is not None else self._with_base(self._fetched(place, uri, roots), roots)

    async def borrow(self, uri: str, digest: str = "", *, own: bool = False) -> Lease:
        """As `lease`, without blocking: who asks for the same at a time waits for one fetch."""
        roots = Roots() if own else self._roots
        if not is_object_uri(uri):
            path, found = await asyncio.to_thread(self._here, uri, digest, roots)
            # An adapter's base in object storage is fetched like any model there.
            return found if found is not None else await self._joined((str(path), digest), uri, digest, own=own)
        place = object_place(uri, roots)
        found = await asyncio.to_thread(self._find, place, uri, digest, roots)
        if found is not None:
            return found
        self._check_open(uri)
        # In threads of their own: where the store does not answer, nobody else waits for one.
        loop = asyncio.get_running_loop()
        there = await loop.run_in_executor(self._looking, self._there, place, uri, roots)
        if isinstance(there, Lease):
            return there
        # What is being fetched is joined only where it is what the store lists now.
        return await self._joined((str(place), there.key), uri, own=own)

    async def _joined(self, key: tuple[str, str], uri: str, digest: str = "", *, own: bool) -> Lease:
        """As `lease`, in a thread for fetches; those who ask for the same `key` at a time share one."""
        self._check_open(uri)
        fetch = self._fetches.get(key)
        if fetch is None:
            found = asyncio.get_running_loop().run_in_executor(
                self._fetching, partial(self.lease, uri, digest, own=own)
            )
            fetch = _Fetch(found)
            self._fetches[key] = fetch
            fetch.task.add_done_callback(lambda _: self._fetches.pop(key, None))
        fetch.waiting += 1
        try:
            lease = (await asyncio.shield(fetch.task)).share()
        finally:
            fetch.waiting -= 1
            fetch.task.add_done_callback(lambda done: None if fetch.waiting else _release(done))
        lease.uri = uri
        return lease

    def close(self) -> None:
        """Ends fetches, soon, with an error. Safe to call twice."""
        self._stopped.set()
        for pool in (self._looking, self._fetching):
            pool.shutdown(wait=False, cancel_futures=True)

    def _check_open(self, uri: str) -> None:
        if self._stopped.is_set():
            raise ModelUnreachable(f"{uri} is not looked for any more: this server is shutting down; ask another one")

    # --- blocking ----------------------------------------------------------------------------------------------

    def _here(self, uri: str, digest: str, roots: Roots) -> tuple[Path, Lease | None]:
        """Where a model on this machine is, and a lease on it where nothing has to be fetched for that."""
        path = resolve_uri(uri, roots)
        if not _needs_base(path):
            return path, self._checked(Lease(str(path), path), roots)
        return path, self._kept.find(str(path), digest) if digest else None

    def _there(self, place: ObjectPlace, uri: str, roots: Roots) -> Lease | ModelListing:
        """What is in the cache of what the store lists now, or else what is to be fetched."""
        listing = list_model(place)
        lease = self._kept.lease(listing.key, uri)
        if lease is None:
            return listing
        if not _needs_base(lease.path):
            return self._checked(lease, roots)
        lease.release()
        return listing

    def _find(self, place: ObjectPlace, uri: str, digest: str, roots: Roots) -> Lease | None:
        found = self._kept.find(str(place), digest) if digest else None
        if found is None:
            return None
        found.uri = uri
        return self._checked(found, roots)

    def _checked(self, lease: Lease, roots: Roots) -> Lease:
        """The lease; of an adapter only where callers may name its base, or that was fetched, too."""
        try:
            self._check_base(lease.path, roots)
        except BaseException:
            lease.release()
            raise
        return lease

    def _check_base(self, path: Path, roots: Roots) -> None:
        named = adapter_base_name(path)
        if named is None or is_object_uri(named):
            return
        # Of an adapter that was put together here, the base was fetched, too.
        ours = self._cache is not None and self._kept.holds(path) and self._kept.holds(Path(named))
        if not ours:
            adapter_base(path, roots)

    @property
    def _kept(self) -> ModelCache:
        if self._cache is None:
            raise ModelLoadError("this server keeps no models of object storage; expected a directory")
        return self._cache

    def _fetched(self, place: ObjectPlace, uri: str, roots: Roots) -> Lease:
        def fill(listing: ModelListing, into: Path) -> None:
            fetch_model(listing, self._stopped, into)
            self._check_base(into, roots)  # before anybody looks at it

        for _ in range(_TRIES):
            listing = list_model(place)
            try:
                self._kept.keep(listing.key, str(place), listing.size, partial(fill, listing))
            except ObjectChanged:
                continue
            lease = self._kept.lease(listing.key, uri)
            if lease is not None:
                return lease
        raise ModelUnreachable(
            f"{place} was another one each time that it was fetched; expected a model that stays as it is: publish"
            " models below prefixes of their own"
        )

    def _with_base(self, lease: Lease, roots: Roots) -> Lease:
        """The lease, or for an adapter of which the base lies in object storage one on both, together. A base on this
        machine is in `roots`, before anybody looks at it."""
        if not _needs_base(lease.path):
            return self._checked(lease, roots)
        with lease:
            named = adapter_base_name(lease.path)
            assert named is not None
            with self._base(named, lease.path, roots) as base:
                files = [
                    path for path in sorted(lease.path.iterdir()) if path.is_file() and belongs_to_model(path.name)
                ]
                stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
                key = hashlib.sha256(repr((str(lease.path), stats, str(base.path))).encode()).hexdigest()[:40]

                uri = str(ObjectPlace.parse(lease.uri)) if is_object_uri(lease.uri) else lease.uri
                for _ in range(_TRIES):
                    self._kept.keep(
                        key,
                        uri,
                        sum(size for _, size, _ in stats),
                        partial(_put_together, files, base.path),
                        base.path.parent.name,
                    )
                    together = self._kept.lease(key, lease.uri)
                    if together is not None:
                        return together
        raise ModelUnreachable(f"{lease.uri} was removed from the cache each time that it was put together")

    def _base(self, named: str, adapter: Path, roots: Roots) -> Lease:
        base = self._fetched(object_place(named, roots), named, roots)
        if adapter_base_name(base.path) is not None:
            base.release()
            raise ModelLoadError(f"the base model of the adapter in {adapter} is an adapter; expected a whole model")
        return base


def _needs_base(path: Path) -> bool:
    named = adapter_base_name(path)
    return named is not None and is_object_uri(named)


def _put_together(files: Sequence[Path], base: Path, into: Path) -> None:
    for path in files:
        shutil.copyfile(path, into / path.name)
    write_adapter_base(into, str(base))


def _release(done: asyncio.Future[Lease]) -> None:
    if not done.cancelled() and done.exception() is None:
        done.result().release()
