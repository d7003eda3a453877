"""The peers of the training bench: `python -m bench.training.contenders ORDER`, JSON, trains once and ends.

Reports on standard output as our worker does: a line of JSON after each optimiser step, and one in the end.
"""

from __future__ import annotations

import json
import math
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import is_liger_kernel_available

from bench.training.recipe import IGNORED, WARMUP, Recipe

Examples = list[dict[str, list[int]]]
PACKAGES = ("transformers", "torch", "accelerate", "trl", "datasets", "liger-kernel")


class Reports(TrainerCallback):
    """Tells each step to whoever started the process."""

    def __init__(self, descriptor: int, recipe: Recipe) -> None:
        self.tokens: Any = 0  # a number, or on its way to one on a GPU, which is not waited for
        self._pipe = os.fdopen(descriptor, "w")
        self._recipe = recipe

    def send(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._pipe, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARMUP, self._recipe.steps):  # where the clock is read, and nowhere else
            self.tokens = int(self.tokens)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.send({"kind": "progressed", "progress": {"step": state.global_step, "tokens": self.tokens}})


def counting(kind: type[Any], reports: Reports) -> type[Any]:
    """A trainer that also counts the tokens of each step; a class, since trainers ask for no such thing otherwise."""

    class Counting(kind):
        def get_batch_samples(self, *arguments: Any) -> Any:
            batches, items = super().get_batch_samples(*arguments)
            for batch in batches:
                # Without a mask there is no padding.
                mask = batch.get("attention_mask")
                reports.tokens += batch["input_ids"].numel() if mask is None else mask.sum()
            return batches, items

    return Counting


def settings(recipe: Recipe, out: str, seed: int, **others: Any) -> dict[str, Any]:
    """What is the same for all, in the words of TrainingArguments."""
    return {
        "output_dir": out,
        "num_train_epochs": 1,
        "per_device_train_batch_size": recipe.per_device,
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "seed": seed,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_liger_kernel": torch.cuda.is_available() and is_liger_kernel_available(),
        **others,
    }


def plain(model: Any, tokenizer: Any, examples: Examples, common: dict[str, Any], reports: Reports) -> Any:
    """`transformers.Trainer`, batches of like length padded."""
    return counting(Trainer, reports)(
        model=model,
        args=TrainingArguments(**common, train_sampling_strategy="group_by_length"),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        processing_class=tokenizer,
    )


def trl(
    model: Any,
    tokenizer: Any,
    examples: Examples,
    common: dict[str, Any],
    reports: Reports,
    block: int,
    packing: bool,
) -> Any:
    """TRL's SFTTrainer; `block` is its limit of a sample or, packed, the length of a row."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

    how = {"packing": True, "packing_strategy": "bfd"} if packing else {"train_sampling_strategy": "group_by_length"}
    return counting(SFTTrainer, reports)(
        model=model,
        args=SFTConfig(**common, max_length=block, **how),
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
    )


def block_for(examples: Examples, recipe: Recipe) -> tuple[int, int]:
    """The length of packed rows, in tokens, and how many make a step. Rows hold every sample whole, and about as many
    tokens as a forward pass of the others; then they grow until they fill the recipe's number of steps. Longer ones
    would not pay: without flash-attention a row is attended to as a whole and masked."""
    from datasets import Dataset
    from trl import pack_dataset  # type: ignore[import-not-found, unused-ignore]

    data = Dataset.from_list(examples)
    lengths = [len(example["input_ids"]) for example in examples]
    least = max(*lengths, recipe.per_device * sum(lengths) // len(lengths))
    block = least
    while block <= max(least, sum(lengths)):
        num_rows = len(pack_dataset(data, block, "bfd"))
        per_step = math.ceil(num_rows / recipe.steps)
        if num_rows > (recipe.steps - 0.5) * per_step:  # so that the last step has at least half of its rows
            return block, per_step
        block += max(1, block // 200)
    raise SystemExit(f"{sum(lengths)} tokens cannot be packed into {recipe.steps} steps")


@torch.no_grad()
def leak(trainer: Any) -> float:
    """By how much, at most, a logit of the packed row with the most samples differs from that of a sample alone.
    Around 1e-4 is rounding; where samples attend to each other it is over 10."""
    torch.set_float32_matmul_precision("highest")
    row = max(trainer.train_dataset, key=lambda example: len(example["seq_lengths"]))
    batch = {key: value for key, value in trainer.data_collator([row]).items() if key != "labels"}
    model = trainer.model.eval()
    batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    packed = model(**batch, use_cache=False).logits[0].split(row["seq_lengths"])
    alone = batch["input_ids"][0].split(row["seq_lengths"])
    return max(
        float((logits - model(input_ids=ids[None], use_cache=False).logits[0]).abs().max())
        for logits, ids in zip(packed, alone, strict=True)
    )


def train(order: dict[str, Any], descriptor: int) -> None:
    """See the module."""
    recipe = Recipe(**order["recipe"])
    transformers.utils.logging.disable_progress_bar()
    # As our worker has it, see `sft._prepare_torch`, but for deterministic algorithms, which only ours insists on.
    torch.set_num_threads(recipe.threads)
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else "medium")
    examples: Examples = json.loads(Path(order["tokens"]).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(order["base"], padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(order["base"], dtype=torch.float32, attn_implementation="sdpa")
    reports = Reports(descriptor, recipe)
    remarks: dict[str, Any] = {}
    common = settings(recipe, order["out"], order["seed"])
    if order["name"] == "trainer":
        trainer = plain(model, tokenizer, examples, common, reports)
    elif order["name"] == "trl":
        trainer = trl(model, tokenizer, examples, common, reports, recipe.max_tokens, packing=False)
    else:
        block, per_step = block_for(examples, recipe)
        common |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": per_step}
        trainer = trl(model, tokenizer, examples, common, reports, block, packing=True)
        remarks |= {"tokens_of_a_row": block, "rows_of_a_step": per_step}
    trainer.add_callback(reports)
    output = trainer.train()
    if order["name"] == "trl, packed":
        remarks["largest_difference_of_a_packed_logit"] = leak(trainer)
    trainer.save_model(order["out"])
    remarks["versions"] = {package: version(package) for package in PACKAGES}
    result = {"train_loss": output.training_loss, "num_tokens": reports.tokens, "remarks": remarks}
    reports.send({"kind": "done", "result": result})


def version(package: str) -> str:
    """Installed version; empty where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    order = json.loads(sys.argv[1])
    descriptor = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    sys.path.append(order["peers_dir"])
    train(order, descriptor)


if __name__ == "__main__":
    main()
