"""The samples that golden values exist for, and the second set of weights that swaps are proved with."""

from __future__ import annotations

import shutil
from pathlib import Path

from burnish_services.engine.chat import TokenizedSample, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer

MODEL = Path("build/models/smollm2-135m-instruct")
GOLDEN = Path(__file__).with_name("smollm2.json")
CONTEXT = 1024  # tokens; the engines under test are started with it
_NOISE = 0.02  # of each tensor's own spread

_STORY = "The tide came in slowly over the flat grey sand, and the boats lifted one after the other. "


def conversations() -> dict[str, list[ChatMessage]]:
    """Single and multi turn, with and without a system message, short, odd and long."""
    ask, tell, system = "user", "assistant", "system"
    turns: dict[str, list[tuple[str, str]]] = {
        "single": [(ask, "What is the capital of France?"), (tell, "The capital of France is Paris.")],
        "wrong": [(ask, "What is the capital of France?"), (tell, "Seventeen green umbrellas of the committee.")],
        "one-word": [(ask, "Answer yes or no: is water wet?"), (tell, "Yes")],
        "system": [
            (system, "You answer in as few words as possible."),
            (ask, "Why is the sky blue?"),
            (tell, "Air scatters blue light most."),
        ],
        "multi-turn": [
            (ask, "Name a prime number."),
            (tell, "7"),
            (ask, "Another one, larger than 20."),
            (tell, "23 is a prime number, as only 1 and 23 divide it."),
            (ask, "Thanks!"),
            (tell, "You're welcome."),
        ],
        "multi-turn-system": [
            (system, "You are a patient teacher of Python."),
            (ask, "How do I reverse a list?"),
            (tell, "```python\nitems.reverse()\n```\nThis changes the list in place."),
            (ask, "And without changing it?"),
            (tell, "```python\nitems[::-1]\n```"),
        ],
        "unicode": [
            (ask, "Translate into Japanese: good morning 🌅"),
            (tell, "おはようございます 👩‍👩‍👧 — naïve café Ωμέγα ﷽"),
        ],
        "markers": [
            (ask, "Which token ends a turn?"),
            (tell, "It is <|im_end|>, and after it comes a line break."),
        ],
        "whitespace": [(ask, "  Say nothing much. \n"), (tell, "\n  Hm.\t \n\n")],
        "long": [(ask, "Tell me about the sea."), (tell, _STORY * 12)],
    }
    return {name: [ChatMessage(role, text) for role, text in parts] for name, parts in turns.items()}


def tokenized(tokenizer: ChatTokenizer) -> dict[str, TokenizedSample]:
    """All samples as tokens, and one more that fills the context to the last token."""
    samples = {name: tokenize_sample(tokenizer, messages) for name, messages in conversations().items()}
    samples["full-context"] = _filling(tokenizer, CONTEXT)
    return samples


def _filling(tokenizer: ChatTokenizer, length: int) -> TokenizedSample:
    words = (_STORY * (length // 10)).split()
    low, high = 1, len(words)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        sample = tokenize_sample(tokenizer, _asking(words[:middle]))
        low, high = (middle, high) if len(sample.ids) <= length else (low, middle - 1)
    sample = tokenize_sample(tokenizer, _asking(words[:low]))
    padding = " the" * (length - len(sample.ids))
    sample = tokenize_sample(tokenizer, _asking(words[:low], padding))
    assert len(sample.ids) == length
    return sample


def _asking(words: list[str], padding: str = "") -> list[ChatMessage]:
    return [ChatMessage("user", "Go on and on."), ChatMessage("assistant", " ".join(words) + padding)]


def write_perturbed(source: Path, target: Path) -> Path:
    """A copy of a model with noise added to every tensor, the tied embedding included: other weights, same shape."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
            continue
        generator = torch.Generator().manual_seed(0)
        weights = load_file(file)
        for name in sorted(weights):
            values = weights[name].float()
            spread = values.std() if values.numel() > 1 else values.abs()
            noise = torch.randn(values.shape, generator=generator) * spread * _NOISE
            weights[name] = (values + noise).to(weights[name].dtype)
        save_file(weights, target / file.name, metadata={"format": "pt"})
    return target
