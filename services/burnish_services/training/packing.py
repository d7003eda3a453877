"""Whether a model keeps samples apart that are laid end to end, found out before anything is trained."""

from __future__ import annotations

import torch

from burnish_services.engine.chat import TokenizedSample, Turn
from burnish_services.training.data import TrainingSample
from burnish_services.training.loss import ResponseLoss, collate
from burnish_services.training.state import RunError

_BEFORE, _SAMPLE = 24, 16  # tokens of the two samples
# Nats that losses may differ by: experts are given other tokens, and so other matrices, to multiply.
_ROUNDING, _ROUNDING_GPU = 1e-3, 0.05


@torch.no_grad()
def check_packing(loss: ResponseLoss, device: torch.device) -> None:
    """Raises RunError where a sample's losses depend on the sample before it in a packed batch. Attention is told which
    tokens are whose; layers with a state that runs on (Mamba, gated delta, convolutions) hear nothing of it, and say
    nothing either."""
    training = loss.model.training
    loss.model.eval()
    vocabulary = loss.model.get_output_embeddings().weight.shape[0]
    before, sample = ([(7 * place + 1) % vocabulary for place in range(length)] for length in (_BEFORE, _SAMPLE))
    apart = [_losses(loss, tokens, sample, device) for tokens in (before, before[::-1])]
    loss.model.train(training)
    difference = (apart[0] - apart[1]).abs().max().item()
    if not difference <= (_ROUNDING_GPU if device.type == "cuda" else _ROUNDING):
        raise RunError(
            "INVALID_ARGUMENT",
            "PACKING_UNSUPPORTED",
            f"hyperparameters.packing is true, but {type(loss.model).__name__} does not keep samples apart that are"
            f" laid end to end: a sample's loss moves by {difference:.3g} nats with the one before it. Train this"
            " model without packing",
        )


def _losses(loss: ResponseLoss, before: list[int], ids: list[int], device: torch.device) -> torch.Tensor:
    """Of the second sample's tokens, in nats."""
    samples = [
        TrainingSample(name, TokenizedSample(one, (Turn(1, 1, len(one)),)))
        for name, one in (("before", before), ("sample", ids))
    ]
    batch = collate(samples, packing=True)
    found, owners = loss.nll({name: one.to(device) if hasattr(one, "to") else one for name, one in batch.items()})
    return found[owners == 1].float()
