"""The fake engine: deterministic across processes and machines, answers in milliseconds, needs no model.

Shipped for users' own tests. A fake model is a directory with one small file, made by `write_fake_model`; everything
the engine says is a function of that file's content and the request, so a run on it can be repeated byte for byte.
"""

from burnish_services.engine.fake.engine import FakeEngine
from burnish_services.engine.fake.model import FakeModel, canary_mean_nll, read_fake_model, write_fake_model
from burnish_services.engine.fake.tokenizer import FakeTokenizer

__all__ = [
    "FakeEngine",
    "FakeModel",
    "FakeTokenizer",
    "canary_mean_nll",
    "read_fake_model",
    "write_fake_model",
]
