"""The best weights of a run so far, by the loss on its evaluation data: one file, replaced whole when it is beaten."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from burnish_services.runtime.files import sync_path, unfinished


class Best:
    """The weights that are trained, as they were when the loss was lowest. What an earlier worker of the run left
    counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.loss, self.step = math.inf, 0
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                self.loss, self.step = float(file.metadata()["loss"]), int(file.metadata()["step"])

    def consider(self, trained: dict[str, torch.Tensor], step: int, loss: float) -> None:
        """Keeps these weights if `loss` is lower than any before. Raises OSError."""
        if not loss < self.loss:  # NaN is no better than anything
            return
        beside = unfinished(self._path)
        # repr: the number comes back as it was.
        save_file(trained, beside, metadata={"loss": repr(loss), "step": str(step)})
        sync_path(beside)
        beside.replace(self._path)
        sync_path(self._path.parent)
        self.loss, self.step = loss, step

    @torch.no_grad()
    def restore(self, model: Any) -> None:
        """Gives the model the weights that were kept."""
        kept = load_file(self._path)
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
