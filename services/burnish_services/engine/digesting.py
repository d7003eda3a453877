"""Digests of models while others are served: each directory is read once, however many ask, and nobody whose model is
known waits for that."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from burnish_services.engine.model_digests import ModelDigests, model_digests, remembered_digests

_AT_A_TIME = 2  # directories; a disk is no faster for more


class Digesting:
    """`of` without end: whoever gives up leaves the reading to those who come after."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_A_TIME, "digests")
        self._readings: dict[Path, asyncio.Future[ModelDigests]] = {}

    async def of(self, path: Path) -> ModelDigests:
        """As `model_digests`. Raises ModelLoadError."""
        known = await asyncio.to_thread(remembered_digests, path)
        if known is not None:
            return known
        reading = self._readings.get(path)
        if reading is None:
            reading = asyncio.get_running_loop().run_in_executor(self._pool, model_digests, path)
            self._readings[path] = reading
            reading.add_done_callback(lambda done: self._end(path, done))
        return await asyncio.shield(reading)

    def _end(self, path: Path, done: asyncio.Future[ModelDigests]) -> None:
        del self._readings[path]
        if not done.cancelled():
            done.exception()  # seen, though who asked may be gone

    def close(self) -> None:
        """Begins no more. Safe to call twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)
