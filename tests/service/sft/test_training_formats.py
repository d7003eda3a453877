"""A number format that a device can only emulate is told of before anything is trained in it."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]


@pytest.mark.parametrize("device", ["CPU", "GPU"])
@pytest.mark.parametrize("dtype", ["mixed", "bfloat16", "float32"])
@pytest.mark.parametrize("has_instructions", [False, True])
def test_a_format_without_instructions_is_warned_of(
    device: str,
    dtype: str,
    has_instructions: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch

    from burnish_services.engine import number_formats

    monkeypatch.setattr(number_formats, "has_bfloat16", lambda: has_instructions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "GPU")
    number_formats.check_format(dtype)
    warned = f"this {device} cannot multiply bfloat16 itself" in caplog.text
    emulated = dtype == "bfloat16" or (dtype == "mixed" and device == "CPU")
    assert warned == (emulated and not has_instructions)


@pytest.mark.parametrize("device", ["CPU", "GPU"])
@pytest.mark.parametrize("has_instructions", [False, True])
def test_a_cpu_without_instructions_computes_in_float32_unless_it_is_told_otherwise(
    device: str, has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from burnish_services.engine import number_formats

    monkeypatch.setattr(number_formats, "has_bfloat16", lambda: has_instructions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "GPU")
    emulates = device == "CPU" and not has_instructions
    assert number_formats.format_to_compute_in("auto") == ("float32" if emulates else "auto")
    assert number_formats.format_to_compute_in("bfloat16") == "bfloat16"


def test_torch_says_whether_there_are_instructions() -> None:
    import torch

    from burnish_services.engine.number_formats import has_bfloat16

    capability = torch.backends.cpu.get_cpu_capability()
    if torch.backends.mkldnn.is_available() and capability in ("DEFAULT", "AVX2", "AVX512"):
        assert has_bfloat16() == (capability == "AVX512")
