"""Low-rank adapters that are published alone: a directory in peft's layout that names its base model.

Owns what such a directory is, and the whole models that are made of them, which is what engines load. The merging
itself is in `merging.py`, which brings torch.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.models import adapter_base, model_digest
from burnish_services.engine.places import Roots

_KEPT = 2  # merged models, each as large as its base


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

        beside = self._folder / f".{uuid.uuid4().hex}"
        beside.mkdir(parents=True)
        try:
            merge(base, adapter, beside)
            if not made.is_dir():  # another process may have been faster
                beside.rename(made)
        except OSError as error:
            raise ModelLoadError(f"{adapter} cannot be merged into {base}: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _sweep(self) -> None:
        found = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
