"""Which modules are a model's down projections, and what is kept of their inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from burnish_services.engine.base import ActivationPooling
from burnish_services.engine.neurons import NeuronRecorder, pooled


class Config:
    num_hidden_layers = 3


def network(path: str, widths: tuple[int, ...] = (6, 6, 6)) -> nn.Module:
    """A model with a Linear at each layer's `path`, such as "model.layers.{}.mlp.down_proj"."""
    root = nn.Module()
    root.config = Config()  # type: ignore[assignment]
    for layer, width in enumerate(widths):
        *above, last = path.format(layer).split(".")
        at = root
        for name in above:
            if name not in dict(at.named_children()):
                at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        at.add_module(last, nn.Linear(width, 4))
    return root


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.{}.mlp.down_proj",  # Llama, Qwen, Mistral, Gemma, Phi-3, GLM
        "model.layers.{}.feed_forward.w2",  # InternLM
        "transformer.h.{}.mlp.c_proj",  # GPT-2
        "model.decoder.layers.{}.fc2",  # OPT
        "gpt_neox.layers.{}.mlp.dense_4h_to_h",  # Pythia
    ],
)
def test_every_familys_projections_are_found(path: str) -> None:
    assert NeuronRecorder(network(path)).shape == (3, 6)


@pytest.mark.parametrize(
    "model",
    [
        network("model.layers.{}.mlp.down_proj", (6, 6, 5)),
        network("model.layers.{}.mlp.down_proj", (6, 6)),
        network("model.layers.{}.mlp.experts.down_proj"),
        network("model.layers.{}.self_attn.c_proj"),
        nn.Linear(2, 2),
    ],
    ids=["widths differ", "a layer without", "experts", "attention", "no layers"],
)
def test_other_shapes_are_left_alone(model: nn.Module) -> None:
    assert NeuronRecorder(model).shape is None


def test_inputs_are_kept_only_while_wanted() -> None:
    model = network("layers.{}.mlp.down_proj")
    recorder = NeuronRecorder(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    inputs = [torch.randn(5, 6) for _ in layers]

    def run() -> None:
        for layer, values in zip(layers, inputs, strict=True):
            layer(values)

    run()
    assert recorder.take() is None
    recorder.start()
    recorder.start()
    assert recorder.take() is None
    run()
    kept = recorder.take()
    assert kept is not None
    assert all(one is other for one, other in zip(kept, inputs, strict=True))
    assert recorder.take() is None
    run()
    recorder.stop()
    assert recorder.take() is None
    run()
    assert recorder.take() is None


def test_pooling_is_over_the_spans_alone() -> None:
    values = torch.tensor([[9.0, -9.0], [1.0, -2.0], [-3.0, 1.0], [9.0, 9.0], [2.0, -1.0]], dtype=torch.bfloat16)
    spans = [(1, 3), (4, 5)]
    assert pooled(values, spans, ActivationPooling.MAX).tolist() == [3.0, 2.0]
    assert pooled(values, spans, ActivationPooling.MAX_SIGNED).tolist() == [2.0, 1.0]
    assert pooled(values, spans, ActivationPooling.MEAN).tolist() == [6.0, 4.0]
    assert pooled(values, [(1, 2)], ActivationPooling.MAX).dtype == torch.float32
