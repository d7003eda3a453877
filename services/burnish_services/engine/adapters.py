"""Low-rank adapters that are published alone: a directory in peft's layout that names its base model.

Owns what such a directory is, and the whole models that are made of them, which is what engines load. The merging
itself is in `merging.py`, which brings torch.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from pathlib import Path

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import adapter_base
from burnish_services.engine.places import Roots

_KEPT = 2  # merged models, each as large as its base
_SETTLED = 60.0  # seconds after which a folder is locked if anybody works on it


class MergedModels:
    """Whole models made of adapters and their bases, in a folder of their own. Blocking; safe to use from several
    processes."""

    def __init__(self, folder: Path, roots: Roots | None = None) -> None:
        self._folder = folder
        self._roots = roots

    def whole(self, path: Path) -> Path:
        """The directory that an engine can load for `path`: itself, or for an adapter its base with it merged in.
        Raises ModelLoadError."""
        base = adapter_base(path, self._roots)
        if base is None:
            return path
        made = self._folder / model_digest(path).removeprefix("sha256:")
        if not made.is_dir():
            self._merge(base, path, made)
        os.utime(made)
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
            if not made.is_dir():  # another process may have been faster
                beside.rename(made)
        except OSError as error:
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
        found = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
