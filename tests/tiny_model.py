"""A real model in every way but size: random, of two layers, with a tokenizer of its own, made in a second."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Names in transformers; what each needs beyond the common sizes.
ARCHITECTURES = {
    "Llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3Config", {"tie_word_embeddings": False}),
    "Gemma3": ("Gemma3TextConfig", {"tie_word_embeddings": True, "sliding_window": 64, "query_pre_attn_scalar": 64}),
}
_CORPUS = ["What is number 12? It is the number 12, and 84 is another.", "system user assistant question answer"]


def write_tiny_model(
    directory: Path,
    *,
    architecture: str = "Llama",
    seed: int = 0,
    dtype: str = "bfloat16",
    context: int = 256,
    head_dim: int = 16,
) -> Path:
    """Makes the model in `directory` and returns it; equal arguments, equal bytes. vLLM on a CPU needs a head_dim of at
    least 32."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    name, more = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=context,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        pad_token_id=fast.pad_token_id,
        **more,
    )
    getattr(transformers, f"{architecture}ForCausalLM")(config).to(getattr(torch, dtype)).save_pretrained(directory)
    return directory
