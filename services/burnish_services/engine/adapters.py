"""Low-rank adapters that are published alone: a directory in peft's layout that names its base model.

Owns what such a directory is, and the whole models that are made of them, which is what engines load. The merging
itself is in `merging.py`, which brings torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
import uuid
from pathlib import Path

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import adapter_base
from burnish_services.engine.places import Roots
from burnish_services.runtime.files import sync_tree

_KEPT = 2  # merged models, each as large as its base
_IN_USE = 120.0  # seconds after which an engine that was given a folder has read it
_SETTLED = 60.0  # seconds after which a folder is locked if anybody works on it


class MergedModels:
    """Whole models made of adapters and their bases, in a folder of their own. Blocking; safe to use from several
    threads and processes."""

    def __init__(self, folder: Path, roots: Roots | None = None) -> None:
        self._folder = folder
        self._roots = roots
        self._alone = threading.Lock()  # two engines of one process may be asked for one model at a time

    def whole(self, path: Path) -> Path:
        """The directory that an engine can load for `path`: itself, or for an adapter its base with it merged in.
        Raises ModelLoadError."""
        base = adapter_base(path, self._roots)
        if base is None:
            return path
        made = self._folder / model_digest(path).removeprefix("sha256:")
        with self._alone:
            try:
                os.utime(made)
            except FileNotFoundError:
                self._merge(base, path, made)
            self._sweep()
        return made

    def _merge(self, base: Path, adapter: Path, made: Path) -> None:
        from burnish_services.engine.merging import merge

        self._sweep_unfinished()
        beside = self._folder / f".{uuid.uuid4().hex}"
        beside.mkdir(parents=True)
        held = os.open(beside, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # for as long as this process lives
            merge(base, adapter, beside)
            sync_tree(beside)  # what has its name counts as whole for good
            beside.rename(made)
        except OSError as error:
            if made.is_dir():  # another process was faster
                return
            raise ModelLoadError(f"{adapter} cannot be merged into {base}: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            os.close(held)

    def _sweep_unfinished(self) -> None:
        """Removes what processes that died were merging."""
        for path in self._folder.glob(".*"):
            try:
                if time.time() - path.stat().st_mtime < _SETTLED:
                    continue
                held = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(held)
            except OSError:
                pass  # somebody merges into it, or has removed it

    def _sweep(self) -> None:
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                found += [] if path.name.startswith(".") else [(path.stat().st_mtime, path)]
        for used, path in sorted(found)[:-_KEPT]:
            if time.time() - used > _IN_USE:
                shutil.rmtree(path, ignore_errors=True)
