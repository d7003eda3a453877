"""train: one supervised fine-tuning run on a file, watched until it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish._training import Run, Training
from burnish._types import ModelRef, RunEvent, RunSpec, RunState
from burnish.cli.data import Reading, data_paths, with_reading
from burnish.cli.output import command, say, say_json, tell
from burnish.cli.per_sample import ModelOption
from burnish.cli.progress import Bars
from burnish.cli.recipe_options import TRAINING, with_tables
from burnish.cli.services import ServiceChoice, with_services
from burnish.coordinator.atomic import write_lines
from burnish.coordinator.content import message_list
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats import load
from burnish.coordinator.paths import is_remote
from burnish.coordinator.recipes.base import TrainingSettings, parse_settings

_MOST_ATTEMPTS = 1000  # so that a service whose runs all end badly at once is not asked for ever


@command
@with_tables(settings=TRAINING)
@with_reading
@with_services
def train(
    services: ServiceChoice,
    settings: dict[str, Any],
    reading: Reading,
    model: ModelOption,
    out: Annotated[
        str, typer.Option("--out", help="Where to publish the model: a directory, or s3://…", metavar="DIR|URI")
    ],
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out data to measure on.", metavar="PATH")
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option("--eval-steps", help="Measure on it every so many steps; default: before and after.")
    ] = None,
    publish_best: Annotated[
        bool | None,
        typer.Option(
            "--publish-best", help="Publish the weights that were best on it, not the last ones; needs --eval-steps."
        ),
    ] = None,
    weight_column: Annotated[
        str | None, typer.Option("--weight-column", help="Column that says what each row counts.", metavar="NAME")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of shuffling.", min=0)] = 0,
    request_id: Annotated[
        str | None,
        typer.Option(
            "--request-id",
            help="Run with this id, or go on watching it; default: from data, settings and the model's files.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Fine-tunes a model on a file, with the loss on responses only, and publishes it with its digest.

    The same command goes on with the same run after an interruption, and tries once more where it failed. Data that the
    training service cannot read by its path is uploaded to it; the model and --out must be where the service sees them:
    directories, or places in object storage such as s3://BUCKET/PREFIX.
    """
    how = parse_settings(TrainingSettings, settings.get("training", {}))
    output = out.rstrip("/") if is_remote(out) else str(Path(out).resolve())
    parts = Path(f"{output.rpartition('/')[2]}.data").resolve() if is_remote(out) else Path(f"{output}.data")
    parts.mkdir(parents=True, exist_ok=True)
    train_file, digest = _write(parts / "train.jsonl", reading, weight_column)
    eval_file, eval_digest = None, ""
    if eval_data:
        held_out = replace(reading, data=tuple(map(str, data_paths(eval_data))))
        eval_file, eval_digest = _write(parts / "eval.jsonl", held_out, None)
    spec = RunSpec(
        base_model=ModelRef(model if is_remote(model) else str(Path(model).resolve())),
        data_uri=str(train_file),
        data_digest=digest,
        output_uri=output,
        hyperparameters=replace(how.hyperparameters(), seed=seed, eval_steps=eval_steps, publish_best=publish_best),
        lora=how.lora(),
        eval_data_uri=str(eval_file or ""),
    )
    with services.client(["training"], model, Path("burnish-state")) as client:
        content = "" if is_remote(model) else _state_of(Path(model))
        run = _create(client.training, spec, request_id, (eval_digest, content))
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
        "published_step": result.published_step,
        "skipped": list(result.skipped),
    }
    if not is_remote(output) and not Path(output).is_dir():
        tell(
            f"note: {output} is not on this machine: the service's has it, or it was removed since (then another"
            " --request-id trains it anew)"
        )
    if json_output:
        say_json(record)
        return
    say(f"model         {result.model.uri}")
    say(f"digest        {result.model.digest}")
    say(f"loss          {result.train_loss:.4f} nats per response token, mean over all steps")
    if result.eval_loss is not None:
        say(f"held-out loss {result.eval_loss:.4f}")
    left_out = ""
    if result.skipped:
        first = ", ".join(result.skipped[:5])
        left_out = f", {len(result.skipped)} left out (too long, of weight 0, or no sample): {first}"
    say(f"samples       {result.num_samples}{left_out}")


def _create(training: Training, spec: RunSpec, request_id: str | None, content: tuple[str, ...] = ()) -> Run:
    """The run of this id, new or found; without one, that of this specification, unless it ended badly: then the next
    attempt, which goes on from its checkpoint where the service kept one. `content`: digests of what the specification
    only names by place."""
    if request_id is not None:
        return training.create(spec, request_id, upload=True)
    name = f"train-{hashlib.sha256(repr((spec, *content)).encode()).hexdigest()[:24]}"
    run = training.create(spec, name, upload=True)
    for attempt in range(2, _MOST_ATTEMPTS):
        if run.snapshot.state not in (RunState.FAILED, RunState.CANCELLED):
            break
        tell(f"note: run {run.run_id} {run.snapshot.state.value}; another attempt")
        run = training.create(spec, f"{name}-a{attempt}", upload=True)
    return run


def _state_of(model: Path) -> str:
    """A digest over names, sizes and times of a model's files, by which others in their place are noticed without
    reading gigabytes; empty where there is no such directory on this machine."""
    if not model.is_dir():
        return ""
    files = sorted((path.name, path.stat()) for path in model.iterdir() if path.is_file())
    told = [(name, found.st_size, found.st_mtime_ns) for name, found in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _note(event: RunEvent) -> str:
    if event.run.waiting_for:
        return f"waits for {event.run.waiting_for}"
    progress = event.run.progress
    parts = [] if progress.loss is None else [f"loss {progress.loss:.3f}"]
    parts += [] if progress.tokens_per_second is None else [f"{progress.tokens_per_second:,.0f} tokens/s"]
    return ", ".join(parts)


def _write(path: Path, reading: Reading, weight_column: str | None) -> tuple[Path, str]:
    """The samples as the JSONL that the training service reads, and its digest. Raises DataError."""
    loaded = load(list(reading.data), columns=reading.columns, skip_bad_rows=reading.skip_bad_rows)
    for warning in loaded.warnings:
        tell(f"note: {warning}")
    lines: Iterator[dict[str, object]] = (
        {"id": sample.id, "messages": message_list(sample.messages)}
        | ({} if weight_column is None else {"weight": _weight(sample.id, record, weight_column)})
        for sample, record in zip(loaded.samples, loaded.records, strict=True)
    )
    return path, write_lines(path, lines)


def _weight(name: str, record: Mapping[str, Any], column: str) -> float:
    try:
        return float(record[column])
    except (KeyError, TypeError, ValueError):
        found = f"is {record[column]!r}" if column in record else f"is not there; it has {', '.join(record)}"
        raise DataError(f"Row {name}: column {column!r}, its weight, {found}; expected a number >= 0.") from None
