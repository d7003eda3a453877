"""Models that do not keep packed samples apart are noticed before they are trained."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from burnish_services.training.loss import ResponseLoss
from burnish_services.training.packing import check_packing
from burnish_services.training.state import RunError

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}


def test_attention_keeps_samples_apart() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, intermediate_size=32, num_attention_heads=2)
    check_packing(ResponseLoss(LlamaForCausalLM(config)), torch.device("cpu"))


def test_a_state_that_runs_on_from_sample_to_sample_is_refused() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZES, state_size=4, initializer_range=1.0))
    with pytest.raises(RunError, match="MambaForCausalLM does not keep samples apart") as refused:
        check_packing(ResponseLoss(model), torch.device("cpu"))
    assert refused.value.failure.reason == "PACKING_UNSUPPORTED"
    assert model.training, "as it was"
