"""vLLM's CPU kernels in the place of its eager layers: the same numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine

# In a process of its own: vLLM's layers load threads and binaries that no server process should have.
COMPARISON = """
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform
from burnish_services.engine.vllm_engine.cpu_kernels import use_kernels

current_platform.import_kernels()
with set_current_vllm_config(VllmConfig()):
    norm, activation = RMSNorm(96, 1e-5, dtype=torch.float32), SiluAndMul(compile_native=False)
torch.manual_seed(0)
norm.weight.data.normal_()
x, residual, gates, heads = (torch.randn(*shape) for shape in ((7, 96), (7, 96), (7, 64), (7, 3, 96)))

def results():
    # Copies: a layer may work in place.
    return [norm(x.clone()), *norm(x.clone(), residual.clone()), activation(gates.clone()), norm(heads.clone())]

before = results()
assert use_kernels(torch.nn.Sequential(norm, activation)) == 2
for old, new in zip(before, results(), strict=True):
    torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-6)
norm.weight.data = torch.ones(96)  # as a swap may leave it
torch.testing.assert_close(norm(x.clone()).pow(2).mean(1), torch.ones(7), rtol=1e-3, atol=0)
"""


def test_the_kernels_agree_with_the_layers_they_speed_up() -> None:
    done = subprocess.run([sys.executable, "-c", COMPARISON], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
