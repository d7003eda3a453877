"""Recipes on data with flaws that are known: do their weights find them, and does that make better models?

A share of the training rows gets a wrong answer. A small clean set is there to learn from, and clean rows are held out
to judge by; what rows share (a context, a list) is on one side only. The tasks (`--task`):

    extractive_qa   t0's questions on a context; wrong: another span of it, or a whole sentence. Of at most 512 tokens
                    there are 3,623 rows, 748 questions on 172 contexts; of at most 640 there are 4,745, of which 3,500
                    can be trained on beside 100 and 300 of other contexts (`--rows 3500 --max-tokens 640`)
    maths           gsm8k; wrong: another result, or steps that lead to none
    instructions    Alpaca; wrong: the answer to another instruction, or one that stops in the middle
    procedural      lists to sort, reverse, count, made here and so everywhere; wrong: another procedure, or a slip

Arms:

    base                 not trained
    all rows             on all rows, wrong ones included
    right rows only      what an oracle would train on
    direct mix           on all rows and the clean set
    validation alone     on the clean set, for as many steps as the recipe's choice
    random, as RECIPE    on as many rows as the recipe has in the end, the mean over a few draws
    RECIPE               on what the recipe keeps, and of bmo also what it answered anew
    RECIPE, while learning   the model that the weights were learnt with: bmo's own

All models of a seed have the same hyperparameters and the same seed. The seed draws rows, sides, flaws and order. The
rows that a recipe keeps are fewer than all, so that its model takes fewer steps; random rows take as many, and losses
are told against those, seed by seed.

Recipes are given the training rows, the clean set and, to be measured by, the held-out rows; the truth is read here
only, when a run has ended. The same command goes on after a kill. Everything is in `--out`, models included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.efficacy.order import PLAIN, RECIPES, Order, Outcome
from bench.efficacy.reading import found_by
from bench.efficacy.task import Row, Sizes, TooFew, divide, write
from bench.efficacy.tasks import TASKS, Task
from bench.efficacy.tell import table, tell
from bench.embedding.setup import say
from bench.results import write as write_results
from burnish.coordinator.content import digest_of
from burnish.coordinator.recipes.registry import METHODS


@dataclass(frozen=True)
class Size:
    """How much of everything. `max_tokens`: of a right row, prompt and answer."""

    rows: int
    validation: int
    held_out: int
    seeds: int
    max_tokens: int
    random_subsets: int


SIZES = {"small": Size(48, 12, 24, 1, 256, 1), "full": Size(2000, 100, 300, 3, 512, 2)}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="extractive_qa")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="defaults for the next six")
    parser.add_argument("--rows", type=int, help="to train on; 0: as many as there are")
    parser.add_argument("--validation-rows", type=int)
    parser.add_argument("--held-out-rows", type=int)
    parser.add_argument("--seeds", type=int, help="how many, from 0")
    parser.add_argument("--max-tokens", type=int, help="of a row with its right answer")
    parser.add_argument("--random-subsets", type=int)
    parser.add_argument("--noise", type=float, default=0.3, help="share of the training rows that gets a flaw")
    parser.add_argument("--keep", type=float, default=0.7, help="share of the rows that recipes keep")
    parser.add_argument("--recipes", nargs="+", default=["bds"], choices=sorted(METHODS))
    parser.add_argument("--settings", type=json.loads, default={}, help="more of a recipe's: '{\"bds\": {…}}'")
    parser.add_argument("--data", type=Path, help="the task's file, where it is elsewhere")
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="transformers")
    parser.add_argument("--dtype", default="float32", help="that is scored in")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=16, help="samples of an optimiser step")
    parser.add_argument("--per-device", type=int, default=4, help="samples of a forward pass")
    parser.add_argument("--packing", action="store_true", help="lay samples end to end: for GPUs")
    parser.add_argument("--checkpoint-steps", type=int, help="default: the training service's")
    parser.add_argument("--jobs", type=int, default=1, help="parts of seeds, two of each, worked at a time")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="after which no model is begun")
    parser.add_argument("--out", type=Path, default=Path("build/efficacy"))
    given = parser.parse_args()
    if given.batch_size % given.per_device:
        parser.error("--batch-size must be a multiple of --per-device")
    if not 0 <= given.noise < 1:
        parser.error("--noise must be at least 0 and below 1")
    size = SIZES[given.size]
    for option, default in (
        ("rows", size.rows),
        ("validation_rows", size.validation),
        ("held_out_rows", size.held_out),
        ("seeds", size.seeds),
        ("max_tokens", size.max_tokens),
        ("random_subsets", size.random_subsets),
    ):
        if getattr(given, option) is None:
            setattr(given, option, default)
    return given


def fitting(rows: Sequence[Row], model: Path, max_tokens: int) -> list[Row]:
    """Those of at most so many tokens, in the model's own chat template."""
    from burnish_services.engine.chat import SampleError, tokenize_sample
    from burnish_services.engine.hf_tokenizer import HfTokenizer
    from burnish_services.engine.tokenizer import ChatMessage

    tokenizer = HfTokenizer(model)

    def fits(row: Row) -> bool:
        turns = [ChatMessage("user", row.prompt), ChatMessage("assistant", row.answer)]
        try:
            tokenize_sample(tokenizer, turns, max_tokens=max_tokens)
        except SampleError:
            return False
        return True

    return [row for row in rows if fits(row)]


def orders(given: argparse.Namespace, task: Task, there: Sequence[Row]) -> list[Order]:
    """Two parts of each seed, the longer ones first, with their data written. Raises SystemExit where there are too few
    rows."""
    training = {
        "num_epochs": given.epochs,
        "learning_rate": given.learning_rate,
        "per_device_batch_size": given.per_device,
        "gradient_accumulation_steps": given.batch_size // given.per_device,
        "checkpoint_steps": given.checkpoint_steps,
        "packing": given.packing,
    }
    settings = {"all": {"keep": given.keep, "random_subsets": given.random_subsets}, **given.settings}
    sizes = Sizes(given.rows, given.validation_rows, given.held_out_rows, given.noise)
    model = str(given.model.absolute())
    how = [given.task, asdict(sizes), given.max_tokens, model, given.engine, given.dtype, training, settings]
    folder = (given.out / digest_of(how)[:12]).absolute()
    until = time.time() + given.max_seconds
    for seed in range(given.seeds):
        try:
            dataset = divide(there, task.kinds(there), sizes, seed)
        except TooFew as error:
            raise SystemExit(f"{task.title}, rows of at most {given.max_tokens} tokens: {error}") from error
        write(dataset, folder / f"seed-{seed}" / "data")
    alike = (model, given.engine, given.dtype, tuple(given.recipes), training, settings, until)
    return [
        Order(part, seed, str(folder / f"seed-{seed}"), *alike)
        for part in (RECIPES, PLAIN)
        for seed in range(given.seeds)
    ]


def work(order: Order) -> str:
    """One part, in a process of its own that ends with this one. What went wrong, empty for nothing."""
    command = [sys.executable, "-m", "bench.efficacy.work", order.text()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        code = process.wait()
    return f"seed {order.seed}, {order.part}: ended with {code}" if code else ""


def main() -> None:
    """See the module."""
    given = arguments()
    task = TASKS[given.task]
    data: Path = given.data or task.data or Path()
    if task.data is not None and not data.is_file():
        raise SystemExit(f"skipped: {data} is not there; it is on this project's machines only (see --data, --task)")
    there = fitting(task.read(data), given.model, given.max_tokens)
    asked = orders(given, task, there)
    say(f"{len(there)} rows of at most {given.max_tokens} tokens; {len(asked)} parts, {given.jobs} at a time")
    with ThreadPoolExecutor(given.jobs) as pool:
        problems = [problem for problem in pool.map(work, asked) if problem]
    seeds: dict[int, list[Outcome]] = {}
    for order in asked:
        seeds.setdefault(order.seed, []).append(found_by(order))
    report = tell(list(seeds.values()), given.recipes, task.title)
    print(table(report), *problems, sep="\n", file=sys.stderr)
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    options["max_seconds"] = None if given.max_seconds == float("inf") else given.max_seconds
    notes = {"options": options, "rows_there": len(there), "summary": report.summary, "problems": problems}
    write_results("efficacy", report.results, {}, notes)
    if problems:
        raise SystemExit("; ".join(problems))


if __name__ == "__main__":
    main()
