"""The feed-forward neurons of a causal language model: where they are, and their activations over given positions.

A neuron's activation is what goes into its layer's down projection: SiLU(gate) · up in a gated network, the activation
function's value in a plain one. Any torch module is looked through, transformers' and vLLM's alike. Pure torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from burnish_services.engine.base import ActivationPooling

# A layer's number, then the projection back to the hidden size, under the names that model families give it.
_PROJECTION = re.compile(
    r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\."
    r"(?:(?:mlp|feed_forward|ffn)\.(?:down_proj|fc2|c_proj|w2|fc_out|dense_4h_to_h|down)|fc2)$"
)
Spans = Sequence[tuple[int, int]]


class NeuronRecorder:
    """Keeps what goes into the down projections during a pass, while told to."""

    def __init__(self, model: nn.Module) -> None:
        """Looks through the model. `shape` is (layers, neurons of each); None where it has not exactly one projection a
        layer, all of the same width, as mixtures of experts have not."""
        found = {int(match[1]): layer for name, layer in model.named_modules() if (match := _PROJECTION.search(name))}
        total = sum(bool(_PROJECTION.search(name)) for name, _ in model.named_modules())
        widths = {_width(layer) for layer in found.values()}
        whole = sorted(found) == list(range(_num_layers(model))) and total == len(found) and len(widths) == 1
        self._layers = [found[index] for index in sorted(found)] if whole else []
        self._inputs: list[torch.Tensor | None] = [None] * len(self._layers)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.shape = (len(self._layers), widths.pop()) if self._layers else None

    def start(self) -> None:
        """Keeps the inputs of every pass from now on. Nothing is copied: what is kept is memory that would have been
        free after its layer, positions × all neurons in the model's number format. Safe to call twice."""
        if not self._handles:
            self._handles = [layer.register_forward_pre_hook(self._keep(at)) for at, layer in enumerate(self._layers)]

    def stop(self) -> None:
        """Keeps no more; safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._inputs = [None] * len(self._layers)

    def take(self) -> list[torch.Tensor] | None:
        """The last pass's inputs by layer, each (…, neurons), which are then forgotten; None where they were not all
        kept."""
        kept = [inputs for inputs in self._inputs if inputs is not None]
        self._inputs = [None] * len(self._layers)
        return kept if len(kept) == len(self._layers) else None

    def _keep(self, at: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._inputs[at] = inputs[0]

        return hook


def pooled(inputs: torch.Tensor, spans: Spans, pooling: ActivationPooling) -> torch.Tensor:
    """One layer's activations (positions, neurons) over the positions in `spans`: float32 (neurons,); for MEAN the sum,
    so that a prompt may be read in parts."""
    rows = torch.cat([inputs[start:end] for start, end in spans]) if len(spans) > 1 else inputs[slice(*spans[0])]
    match pooling:
        case ActivationPooling.MAX:
            return rows.abs().amax(dim=0).float()
        case ActivationPooling.MAX_SIGNED:
            return rows.amax(dim=0).float()
        case ActivationPooling.MEAN:
            return rows.abs().sum(dim=0, dtype=torch.float32)


def _num_layers(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "num_hidden_layers", 0) or 0)


def _width(layer: nn.Module) -> int:
    """Numbers that go in: of torch's Linear, vLLM's RowParallelLinear or transformers' Conv1D."""
    for name in ("in_features", "input_size", "nx"):
        if isinstance(width := getattr(layer, name, None), int):
            return width
    return 0
