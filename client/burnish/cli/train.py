"""train: one supervised fine-tuning run on a file, watched until it ends."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from burnish._types import Hyperparameters, ModelRef, RunEvent, RunSpec
from burnish.cli.data import DataOption, SkipOption, load_samples
from burnish.cli.output import command, lines_to, say, say_json, write_line
from burnish.cli.per_sample import ModelOption
from burnish.cli.progress import Bars
from burnish.cli.services import ServiceChoice, with_services


@command
@with_services
def train(
    services: ServiceChoice,
    data: DataOption,
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", help="Directory to publish the model to.", metavar="DIR")],
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out data to measure on.", metavar="PATH")
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after this many steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Samples per forward pass.")] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", help="Forward passes per optimiser step.")
    ] = None,
    max_sequence_tokens: Annotated[
        int | None, typer.Option("--max-sequence-tokens", help="Longer samples are left out.")
    ] = None,
    train_dtype: Annotated[
        str | None, typer.Option("--train-dtype", help="float32 or bfloat16 weights while training.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of shuffling.", min=0)] = 0,
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", help="Run with this id, or go on watching it; default: from data and settings."),
    ] = None,
    skip_bad_rows: SkipOption = False,
    json_output: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Fine-tunes a model on a file, with the loss on responses only, and publishes it with its digest.

    The same command goes on with the same run after an interruption. Data that the training service cannot read by its
    path is uploaded to it; the model and --out must be where the service sees them.
    """
    out = out.resolve()
    parts = out.with_name(f"{out.name}.data")
    parts.mkdir(parents=True, exist_ok=True)
    train_file, digest = _write(parts / "train.jsonl", data, skip_bad_rows)
    eval_file = _write(parts / "eval.jsonl", eval_data, skip_bad_rows)[0] if eval_data else None
    spec = RunSpec(
        base_model=ModelRef(str(Path(model).resolve())),
        data_uri=str(train_file),
        data_digest=digest,
        output_uri=str(out),
        hyperparameters=Hyperparameters(
            num_epochs=epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            per_device_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_sequence_tokens=max_sequence_tokens,
            dtype=train_dtype,
            seed=seed,
        ),
        eval_data_uri=str(eval_file or ""),
    )
    name = request_id or f"train-{hashlib.sha256(repr(spec).encode()).hexdigest()[:24]}"
    with services.client(["training"], model, Path("burnish-state")) as client:
        run = client.training.create(spec, name, upload=True)
        with Bars() as bars:
            task = bars.open("train")
            for event in run.watch():
                bars.move(task, event.run.progress.step, event.run.progress.total_steps, _note(event))
        result = run.result()
    record = {
        "run_id": run.run_id,
        "model": result.model.uri,
        "digest": result.model.digest,
        "train_loss": result.train_loss,
        "eval_loss": result.eval_loss,
        "num_samples": result.num_samples,
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "skipped": list(result.skipped),
    }
    if json_output:
        say_json(record)
        return
    say(f"model         {result.model.uri}")
    say(f"digest        {result.model.digest}")
    say(f"loss          {result.train_loss:.4f} nats per response token, mean over all steps")
    if result.eval_loss is not None:
        say(f"held-out loss {result.eval_loss:.4f}")
    left_out = (
        f", {len(result.skipped)} left out as too long: {', '.join(result.skipped[:5])}" if result.skipped else ""
    )
    say(f"samples       {result.num_samples}{left_out}")


def _note(event: RunEvent) -> str:
    progress = event.run.progress
    parts = [] if progress.loss is None else [f"loss {progress.loss:.3f}"]
    parts += [] if progress.tokens_per_second is None else [f"{progress.tokens_per_second:,.0f} tokens/s"]
    return ", ".join(parts)


def _write(path: Path, given: list[str], skip_bad_rows: bool) -> tuple[Path, str]:
    """The samples as the JSONL that the training service reads, and its digest."""
    with lines_to(path) as stream:
        for sample in load_samples(given, limit=None, skip_bad_rows=skip_bad_rows):
            messages = [{"role": m.role.value, "content": m.content} for m in sample.messages]
            write_line(stream, {"id": sample.id, "messages": messages})
    return path, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
