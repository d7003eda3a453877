"""Fine-tuning of a causal language model: what the worker process does for a real run.

Reads as the run goes: data, model, loss before, steps, rounding, loss after, publishing. The steps are in
`trainer.py` and `bilevel_trainer.py`, the loss in `loss.py`, the way of the weights to disk in `weights.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.merging import SEED, stored_dtype
from burnish_services.engine.model_config import model_context, read_text_config
from burnish_services.engine.models import CARD_FILE
from burnish_services.engine.number_formats import check_format
from burnish_services.engine.untrusted import SAFE_WEIGHTS, cannot_load, whole
from burnish_services.training import checkpoints, publish, weights
from burnish_services.training.attention import use_packed
from burnish_services.training.bilevel.importance import Weighting
from burnish_services.training.bilevel_trainer import BilevelTrainer
from burnish_services.training.books import RunCallback
from burnish_services.training.core import total_steps
from burnish_services.training.data import TrainingData
from burnish_services.training.job import Job, StoppedEarly
from burnish_services.training.lora import Adapters, add_adapters, merge_adapters
from burnish_services.training.loss import ResponseLoss, mean_nll
from burnish_services.training.packing import check_packing
from burnish_services.training.pausing import PausedRun, newest_pool, publish_paused
from burnish_services.training.pool import EMPTY, read_pool
from burnish_services.training.refining_trainer import RefiningTrainer
from burnish_services.training.state import Pause, Result
from burnish_services.training.trainer import SftTrainer, has_liger, training_arguments

log = logging.getLogger(__name__)


def train(job: Job) -> Result | None:
    """Trains and publishes; None in all processes but the first, which alone publishes. Raises RunError, StoppedEarly,
    PausedRun, ModelLoadError, OSError."""
    record, plan = job.record, job.record.resolved.plan
    base = record.resolved.base
    _prepare_torch(job.threads)
    check_format(plan.dtype)
    job.check_base()
    tokenizer = HfTokenizer(base, record.resolved.chat_template)
    max_tokens = min(plan.max_sequence_tokens, model_context(read_text_config(base)))
    data = job.read_training_data(tokenizer, max_tokens)
    eval_data = job.read_eval_data(tokenizer, max_tokens)
    stored = stored_dtype(base)

    trainer = _trainer(job, _load(job, base), data, tokenizer, max_tokens)
    if plan.packing and job.world.is_alone:  # of several processes none has the model yet
        with trainer.accelerator.autocast():
            check_packing(trainer.response_loss, trainer.args.device)
    # As the first process sees it: others may be on machines whose view of a shared folder is older.
    found = checkpoints.newest(job.directory.checkpoints) if job.world.is_first else None
    checkpoint = trainer.told(found)

    def evaluate() -> float | None:
        return _eval_loss(trainer, trainer.response_loss, eval_data, plan.per_device_batch_size)

    books = RunCallback(job, trainer, evaluate, template_digest=tokenizer.template_digest, stored=stored)
    trainer.add_callback(books)
    step = 0 if checkpoint is None else checkpoints.step_of(checkpoint)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
        books.resume(checkpoint)
        books.report(step)
        if books.sums.pausing and not job.directory.pool(step).is_file():
            raise PausedRun(_pause(job, trainer, books, step, checkpoint))
    else:
        books.report(0)
    if isinstance(trainer, RefiningTrainer):
        _use_pool(job, trainer, tokenizer, max_tokens, data, step, is_new=bool(books.sums.pausing))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps = trainer.state.global_step
    if books.sums.pausing:
        raise PausedRun(_pause(job, trainer, books, steps))
    if steps < trainer.args.max_steps:
        raise StoppedEarly

    published_step = steps
    if plan.publish_best:
        if steps % plan.eval_steps:
            books.measure(steps)
        published_step = books.best.step
    model = _whole_model(job, trainer, base)
    if model is None:
        return None
    if plan.publish_best:
        books.best.restore(model)
    lora = record.resolved.lora
    adapters = Adapters.of(model, base) if lora is not None and lora.adapter_only else None
    # What is measured is what is published, or what services make of it: the rounding comes first.
    model = merge_adapters(model)
    weights.round_weights(model, stored, plan.seed if adapters is None else SEED)
    eval_loss = _eval_loss(trainer, ResponseLoss(model), eval_data, plan.per_device_batch_size)
    if eval_loss is not None:
        books.report(steps, eval_loss)
    sums = books.sums
    train_loss = sums.loss / steps

    def write(staging: Path) -> dict[str, Any]:
        if adapters is not None:
            adapters.write(staging)
            canary = weights.prove_adapter(staging, base, record.resolved.chat_template, job.directory.checkpoints)
        else:
            weights.write_model(model, stored, base, staging)
            canary = weights.prove(staging, record.resolved.chat_template)
        return publish.card(
            record,
            canary=canary,
            training={"train_loss": train_loss, "eval_loss": eval_loss, "num_samples": len(data.samples)},
            packages=[
                *("torch", "transformers", "accelerate"),
                *(["peft"] if lora is not None else []),
                *(["liger-kernel"] if has_liger() else []),
            ],
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        )

    def result(digest: str) -> Result:
        return Result(
            model_uri=record.resolved.model_uri,
            model_digest=digest,
            train_loss=train_loss,
            eval_loss=eval_loss,
            num_samples=len(data.samples),
            skipped=tuple(skipped.name for skipped in data.skipped),
            data_digest=data.digest,
            num_tokens=sums.num_tokens,
            published_step=published_step,
        )

    return publish.publish(job.directory, record, write, result)


def _prepare_torch(threads: int) -> None:
    transformers.utils.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Memory that nobody reads before it is written need not be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        return
    torch.set_num_threads(threads)
    # Lets oneDNN multiply float32 matrices. Where the CPU has AMX it rounds their entries to bfloat16 for that and
    # sums in float32; elsewhere it is exact, and on AMD twice as fast as MKL, which torch would take.
    torch.set_float32_matmul_precision("medium")


def _load(job: Job, base: Path) -> Any:
    """The model that is trained, with adapters if the run has any."""
    plan, lora = job.record.resolved.plan, job.record.resolved.lora
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(base),
            dtype=torch.bfloat16 if plan.dtype == "bfloat16" else torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **SAFE_WEIGHTS,
        )
    except Exception as error:
        raise cannot_load("the weights", base, error) from error
    model = whole(loaded, base)
    use_packed(model)
    return model if lora is None else add_adapters(model, lora, plan.seed)


def _trainer(job: Job, model: Any, data: TrainingData, tokenizer: HfTokenizer, max_tokens: int) -> SftTrainer:
    resolved = job.record.resolved
    arguments = training_arguments(job, total_steps(resolved.plan, len(data.samples)))
    if resolved.selection is None:
        return SftTrainer(model, arguments, data, resolved.plan, job.world)
    validation = job.read_validation_data(tokenizer, max_tokens)
    how, folder = resolved.selection.how, job.directory.weights
    kind = BilevelTrainer if resolved.refinement is None else RefiningTrainer
    return kind(model, arguments, data, resolved.plan, how, validation, folder, job.world)


def _use_pool(
    job: Job,
    trainer: RefiningTrainer,
    tokenizer: HfTokenizer,
    max_tokens: int,
    data: TrainingData,
    step: int,
    *,
    is_new: bool,
) -> None:
    """Has the trainer learn from the responses that were given last; `is_new`: given at `step`."""
    how, path = job.record.resolved.refinement, newest_pool(job.directory, step)
    assert how is not None
    names = [sample.name for sample in data.samples]
    pool = EMPTY if path is None else read_pool(path, tokenizer, max_tokens, names)
    log.info("responses to %d of %d questions", len(pool), len(names))
    trainer.use(pool, Weighting(how.response_weighting, how.length_power, how.temperature), is_new=is_new)


def _pause(job: Job, trainer: SftTrainer, books: RunCallback, step: int, checkpoint: Path | None = None) -> Pause:
    """The pause after `step`, with the model as it is, or as it is in the checkpoint of a worker that did not get so
    far."""
    assert isinstance(trainer, RefiningTrainer)
    resolved = job.record.resolved

    def write(staging: Path) -> None:
        if checkpoint is not None:
            trainer._load_from_checkpoint(str(checkpoint))
        stored = stored_dtype(resolved.base)
        model = merge_adapters(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
        weights.round_weights(model, stored, resolved.plan.seed)
        weights.write_model(model, stored, resolved.base, staging)
        canary = weights.prove(staging, resolved.chat_template)
        (staging / CARD_FILE).write_text(json.dumps({"format": 1, "canary": canary}), encoding="utf-8")

    return publish_paused(job, step, books.sums.pausing, trainer.share_in_effect, write)


def _whole_model(job: Job, trainer: SftTrainer, base: Path) -> Any:
    """The trained model, gathered from all processes in the first of them, and None in the others."""
    if job.world.is_alone:
        return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    gathered = trainer.accelerator.get_state_dict(trainer.model)
    if not job.world.is_first:
        return None
    model = _load(job, base)
    model.load_state_dict(gathered)
    return model.to(trainer.args.device)


def _eval_loss(trainer: SftTrainer, loss: ResponseLoss, data: TrainingData | None, batch_size: int) -> float | None:
    if data is None:
        return None
    with trainer.accelerator.autocast(), _exact_on_cpu():
        return mean_nll(loss, data.samples, batch_size, trainer.args.device)


@contextmanager
def _exact_on_cpu() -> Iterator[None]:
    """What is measured here is compared with what the scoring service measures, so nothing is rounded on the way."""
    before = torch.get_float32_matmul_precision()
    if not torch.cuda.is_available():
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
