"""Recipes on data with flaws that are known: do they find them, and does that make better models?

A share of the training rows gets a flaw. A small clean set is there to learn from, and clean rows are held out to judge
by; what rows share (a context, a list) is on one side only. The grid: tasks (`--tasks`), shares of noise (`--noise`),
seeds, and in each cell all arms (`--arms`).

Tasks:

    extractive_qa   t0's questions on a context. Of at most 512 tokens there are 3,623 rows, 748 questions on 172
                    contexts; of at most 640 there are 4,745, of which 3,500 can be trained on beside 100 and 300 of
                    other contexts (`--rows 3500 --max-tokens 640`)
    maths           gsm8k: steps, and a number
    instructions    Alpaca: any answer that does what was asked
    procedural      lists to sort, reverse, count, made here and so everywhere

Of every task, `--flaws` plants others by name too: `vague`, prompts that lost what made them answerable, and
`duplicate`, too many copies of a few rows of one topic (`flaws.py`).

Arms (`arms.py` has the settings):

    all rows                 wrong ones included: what happens where nobody looks
    right rows only          what an oracle would train on
    random, as X             as many rows as arm X has in the end, the mean over a few draws
    direct mix               all rows and the clean set
    validation alone         the clean set alone
    longest, perplexity,     the simple filters: most tokens, least loss, the same summed over the response,
    total loss, ifd, pmi     instruction-following difficulty, and how much the prompt tells of the response
    weakest, among           the base model's loss of the least likely token, compared with the neighbours'
    outliers                 those rows less that stand out by it, be they none or many: filter's default
    weakest, outliers, all,  the same, counting by their rank while they are trained on
    each "weighted"
    cross loss, cross gain   the loss under a model that did not see the row, and what that gained over the base model
    cross weakest            by the least likely token under a model trained on the other half; "among": and
                             that compared with its neighbours'
    trusted weakest          the same under a model trained on the clean set alone
    calibrated, among        what the base model makes of a row, weighed so that the clean set stands out
    mads, middo, clear,      the recipes; bds, bmo and auto are given the clean set as well
    bds, bmo, auto
    auto, one signal         auto without a rival: by the least likely token alone
    middo, agree             middo where rewrites must please two models, and rows whose rewrites do not are dropped
    middo, dropped           middo where the rows that it would replace are dropped instead
    confidence → ...         a filter, then coverage to hold the size, then weighted training

All models of a seed have the same hyperparameters and the same seed. The seed draws rows, sides, flaws and order. With
`--epochs`, fewer rows are fewer steps, and only random rows take as many: where steps are few, that can cost more than
what is wrong with the data does. With `--steps`, as all sizes have it, all models take as many, over rows that each of
them sees once. All arms of a cell are runs of one ledger, so
that scores and models are paid for once; what an arm costs is told as if it had been alone.

Gap recovered = (all rows - arm) / (all rows - right rows only), of held-out loss and of the score of greedy answers to
held-out rows (exact match, token F1, same number), with 95% intervals over seeds (Fieller's). Recipes
are given the training rows, the clean set where they ask for one and, to be measured by, the held-out rows; the truth
is read here only, when a run has ended.

With `--warm-steps`, the base model of a task is trained first, on clean rows that no cell has: a model that can do the
task already, as those that people fine-tune mostly can, and that wrong rows can only make worse. All sizes do so; a
model that can do the tasks as it comes needs none (`--warm-steps 0`).

Sizes. `small` is reckoned for two slow cores, where SmolLM2-135M trains on about 85 tokens a second, reads 240 and
writes 40, and where a model more costs 20 seconds of loading: one task of 44 tokens a row, one share of noise, three
seeds, three arms and a control. The base takes 80 steps of 8 rows, 28,000 tokens or 6 minutes, every other model 20, 80
seconds; there are four for each seed. So a seed takes about 11 minutes, and everything less than 40. What is asked for
is reckoned and told before anything starts. `full` takes days on such a machine; `gpu` is the whole grid, with vLLM.

The same command goes on after a kill, and cells that are done cost nothing. Everything is in `--out`; a cell's models
are removed once it is done, unless --keep-models says otherwise: arms that are added later train what they share anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from bench.efficacy.arms import ARMS, NOISY, ORACLE, there, unfit
from bench.efficacy.cell import Cell
from bench.efficacy.flaws import DUPLICATE, VAGUE
from bench.efficacy.grid import cells, expected_of, rows_of, with_base, without_known, work
from bench.efficacy.merge import merged
from bench.efficacy.page.data import read
from bench.efficacy.page.files import read_files, write_page
from bench.efficacy.reading import read_cell
from bench.efficacy.record import record_of
from bench.efficacy.sizes import SIZES, Size
from bench.efficacy.tasks import ANSWERS, TASKS
from bench.efficacy.tell import results_of, table
from bench.efficacy.won import gaps
from bench.embedding.setup import say
from bench.results import machine
from bench.results import write as write_results


def arguments() -> argparse.Namespace:
    """What the command line says; what it does not, the size does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="defaults for all that has none here")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--noise", nargs="+", type=float, help="shares of the training rows that get a flaw")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="beside all rows and right rows only")
    parser.add_argument("--rows", type=int, help="to train on; 0: as many as there are")
    parser.add_argument("--validation-rows", type=int, help="of the clean set")
    parser.add_argument("--held-out-rows", type=int)
    parser.add_argument("--score-rows", type=int, help="of the held-out rows, how many are answered; 0: none")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--first-seed", type=int, help="from which on: others than those that were measured elsewhere")
    parser.add_argument("--max-tokens", type=int, help="of a row with its right answer")
    parser.add_argument("--random-subsets", type=int, help="draws of a control; 0: no controls")
    parser.add_argument(
        "--flaws",
        nargs="+",
        metavar="NAME",
        help=f"kinds that take turns: {ANSWERS} (those of the task that change an answer), {VAGUE}, {DUPLICATE}, or any"
        f" kind of the task by its name; default: {ANSWERS}, of size gpu all of them",
    )
    parser.add_argument("--keep", type=float, default=0.7, help="share of the rows that recipes keep")
    parser.add_argument("--settings", type=json.loads, default={}, help="more of an arm's: '{\"bds\": {…}}'")
    parser.add_argument("--data", type=Path, help="the task's file, where it is elsewhere and there is one task")
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--engine", choices=["vllm", "transformers"])
    parser.add_argument("--dtype", help="that is scored in")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="that the transformers engine computes together")
    parser.add_argument("--train-dtype", help="float32, mixed (faster on CPUs that have bfloat16) or bfloat16")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--steps", type=int, help="of every model, instead of --epochs; 0: by --epochs")
    parser.add_argument(
        "--warm-steps", type=int, help="that the base model is trained for first, on clean rows which no cell has"
    )
    parser.add_argument(
        "--warm-learning-rate", type=float, help="of that; the peak, as --learning-rate is of all others"
    )
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int, help="samples of an optimiser step")
    parser.add_argument("--per-device", type=int, default=4, help="samples of a forward pass")
    parser.add_argument("--packing", action="store_true", help="lay samples end to end: for GPUs")
    parser.add_argument("--checkpoint-steps", type=int, help="default: the training service's")
    parser.add_argument("--jobs", type=int, default=1, help="cells that are worked at a time")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="after which no arm is begun")
    parser.add_argument("--keep-models", action="store_true")
    parser.add_argument(
        "--known",
        type=Path,
        nargs="+",
        default=[],
        help="results files of the same cells: what they have is not measured again",
    )
    parser.add_argument("--out", type=Path, default=Path("build/efficacy"))
    given = parser.parse_args()
    epochs = given.epochs is not None
    for option in fields(Size):
        if getattr(given, option.name) is None:
            setattr(given, option.name, getattr(SIZES[given.size], option.name))
    if given.batch_size % given.per_device:
        parser.error("--batch-size must be a multiple of --per-device")
    if not all(0 <= share < 1 for share in given.noise):
        parser.error("--noise must be at least 0 and below 1")
    if not 0 < given.keep < 1:
        parser.error("--keep must be above 0 and below 1")
    if given.data and len(given.tasks) > 1:
        parser.error("--data is of one task: name it with --tasks")
    if epochs and given.steps:
        parser.error(f"--epochs is of trainings without --steps, and there are {given.steps}; give --steps 0 with it")
    if unknown := given.settings.keys() - ARMS.keys():
        parser.error(f"--settings names {', '.join(sorted(unknown))}; expected arms: {', '.join(ARMS)}")
    for name, more in given.settings.items():
        if problem := unfit(name, more):
            parser.error(f"--settings of {name}: {problem}")
    return given


def main() -> None:
    """See the module."""
    given = arguments()
    arms, lacking = there([*given.arms, NOISY, ORACLE])
    if lacking:
        say(f"left out, for this build has no such recipe or setting: {', '.join(lacking)}")
    try:
        known = [merged(read_files(given.known))] if given.known else []
    except ValueError as error:
        raise SystemExit(f"--known: {error}") from error
    by_cell = {(one["task"], float(one["noise"]), int(one["seed"])): one for file in known for one in file["cells"]}
    tasks = dict(rows_of(given))
    for task, rows in tasks.items():
        say(f"{task}: {len(rows.rows)} rows of at most {given.max_tokens} tokens, {rows.tokens:.0f} on average")
    expected = expected_of(given, tasks, arms, by_cell)
    say(f"{expected}")
    asked, until = list[Cell](), time.time() + given.max_seconds
    for task, there_are in tasks.items():
        model, rows = with_base(given, task, there_are)
        asked += [without_known(cell, by_cell) for cell in cells(given, task, rows.rows, arms, model, until)]
    with ThreadPoolExecutor(given.jobs) as pool:
        problems = [problem for problem in pool.map(work, asked) if problem]
    ended = [read_cell(cell) for cell in asked]
    problems += [problem for one in ended for problem in one.problems]
    found = [record_of(one) for one in ended if one.arms]
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    options["known"] = [str(path) for path in given.known]
    options["max_seconds"] = None if given.max_seconds == float("inf") else given.max_seconds
    document = merged(
        [
            *known,
            {
                "machine": machine(),
                "command": f"python -m bench.efficacy {shlex.join(sys.argv[1:])}",
                "options": options,
                "left_out": lacking,
                "estimated_seconds": expected.seconds,
                "cells": found,
                "gap": gaps(found),
                "problems": problems,
            },
        ]
    )
    print(table(document["cells"], document["gap"]), *problems, sep="\n", file=sys.stderr)
    write_results("efficacy", results_of(document["cells"]), {}, document)
    if document["cells"]:
        page = given.out / "efficacy.html"
        write_page(read(document), page)
        say(f"the page: {page}")
    if problems:
        raise SystemExit("; ".join(problems))


if __name__ == "__main__":
    main()
