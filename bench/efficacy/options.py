"""The command line of the efficacy bench."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from bench.efficacy.arms import ARMS, NOISY, ORACLE, unfit
from bench.efficacy.flaws import DUPLICATE, VAGUE
from bench.efficacy.sizes import SIZES, Size
from bench.efficacy.tasks import ANSWERS, TASKS

ABOUT = """Recipes on data with flaws that are known: do they find them, and does that make better models?

A share of the training rows gets a flaw. A small clean set is there to learn from, and clean rows are held out to judge
by; what rows share (a context, a list) is on one side only. The grid: tasks, shares of noise, seeds, and in each cell
all arms. docs/efficacy.md says what these are, how they are measured, and what was found.

Size `small` is procedures, made here: three seeds, three arms and a control in less than 40 minutes on two slow cores.
`full` takes days there; `gpu` is the whole grid, with vLLM. All sizes train the base model on clean rows first
(`--warm-steps`), which a model that can do the tasks as it comes does not need: `--warm-steps 0`. What is asked for is
reckoned and told before anything starts.

The same command goes on after a kill, and cells that are done cost nothing. Everything is in `--out`; a cell's models
are removed once it is done, unless --keep-models says otherwise: arms that are added later train what they share anew.
Results are in bench/results/efficacy.json, which the next command writes anew: give it as --known, or keep a copy.
"""


def _file_of_task(text: str) -> tuple[str | None, Path]:
    task, equals, path = text.partition("=")
    if equals and task in TASKS:
        return task, Path(path)
    if equals and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: {task} is no task; expected TASK=FILE, of {', '.join(TASKS)}")
    return None, Path(text)


def arguments() -> argparse.Namespace:
    """What the command line says; what it does not, the size does."""
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="defaults for all that has none here")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--noise", nargs="+", type=float, help="shares of the training rows that get a flaw")
    parser.add_argument(
        "--arms",
        nargs="+",
        type=lambda name: name.replace("->", "→"),
        choices=list(ARMS),
        metavar="ARM",
        help="beside all rows and right rows only: "
        + "; ".join(name for name in ARMS if name not in (NOISY, ORACLE))
        + " (-> will do for the arrow)",
    )
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
    parser.add_argument(
        "--data",
        nargs="+",
        type=_file_of_task,
        default=[],
        metavar="TASK=FILE",
        help="where a task's rows are; of one task FILE will do",
    )
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
    if any(task is None for task, _ in given.data) and (len(given.tasks) > 1 or len(given.data) > 1):
        parser.error("--data names a file of several tasks; expected TASK=FILE")
    given.data = {task or given.tasks[0]: path for task, path in given.data}
    if strange := sorted(given.data.keys() - set(given.tasks)):
        parser.error(f"--data is of {', '.join(strange)}; expected some of --tasks: {', '.join(given.tasks)}")
    if epochs and given.steps:
        parser.error(f"--epochs is of trainings without --steps, and there are {given.steps}; give --steps 0 with it")
    if unknown := given.settings.keys() - ARMS.keys():
        parser.error(f"--settings names {', '.join(sorted(unknown))}; expected arms: {', '.join(ARMS)}")
    for name, more in given.settings.items():
        if problem := unfit(name, more):
            parser.error(f"--settings of {name}: {problem}")
    return given
