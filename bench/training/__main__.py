"""Supervised fine-tuning of one model by the training service, by TRL's SFTTrainer and by transformers' Trainer.

    burnish           a run of the training service, asked for by the SDK; the server, which does next to nothing
                      meanwhile, trains in a worker process of its own
    burnish, packed   the same with `packing`
    burnish, mixed    the same as the first in mixed precision on a CPU as well; where it is asked for (--contenders)
    trl               TRL's SFTTrainer, padded, samples grouped by length
    trl, packed       the same packed, `bfd`, in rows of about as many tokens as a forward pass of the others
    trainer           `transformers.Trainer`, padded, samples grouped by length

Equal for all: the tokens of every sample and which of them have a loss (the peers are given ours as `input_ids` and
`labels`, so that tokenizing is in nobody's time), one epoch over the same samples in as many optimiser steps, samples
of a forward pass, float32 weights (on a GPU under bfloat16 autocast), AdamW, fused and without decay, a learning rate
that falls by a cosine, clipping at 1, no gradient checkpointing and no checkpoints. Threads, OpenMP, allocator and
the precision of float32 products are as our worker has them for all; peers as released lack these.

Not equal: which samples share a step. Ours draws them at random and sorts within the step. `group_by_length` sorts
all of so small an epoch, longest first: there is hardly any padding, and the steps that are not timed are the longest
ones. TRL packs the whole epoch before it trains, so that a step has as many samples only on average. Our worker alone
computes by deterministic algorithms and looks for numbers that are not finite. TRL alone reckons entropy and
accuracy, and on a CPU has its head go over every token, prompts as well, and do so anew for the backward pass: its
kernels are made for GPUs, and no setting changes that.

Packed samples do not attend to each other in TRL either, though there is no flash-attention here: transformers makes
a mask of where positions begin anew, and what is masked is computed all the same. The bench measures that they do
not.

Every run is a process of its own, one at a time; contenders take turns. A clock is read whenever a process reports a
step, ours by the server, the others by the bench. Tokens per second are those of the steps after the first two,
prompt and response, padding not counted; memory is the most that the process had resident during these steps.
Loading, saving and publishing are in neither. So that faster cannot mean to learn less, the weights that come out are
judged by the same code: by their loss on rows held out.

TRL is no dependency of this project: the bench looks for it in `--peers-dir` and says how to put it there. Where
Liger's kernels are installed, and a GPU for them, all use them: ours by itself, the others by their setting.

On a GPU a Llama of a billion random weights is trained as well, in larger steps, and its tokens are told as operations
a second and as a share of what the device does in bfloat16 products: those that training takes, not those that were
done (`flops.py`). `--courses large` trains nothing else and takes a `--model` without weights. Its data are those that
are named, or else the bundled set; where there are too few rows they come again, since there is nothing to learn from
them. Device memory is what was taken of it by the end of a run, which a framework's allocator holds on to.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.embedding.setup import Report, say
from bench.peers import Peer, absent, started
from bench.results import Ratio, Result, ratio, write
from bench.training.data import Workload, workload
from bench.training.flops import ONE_BILLION, training_flops
from bench.training.recipe import WARMUP, Recipe
from bench.training.runs import Task, Trained, train_ours, train_peer
from burnish import Client
from burnish.local import LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer

# How ours differ from each other.
OURS: Mapping[str, Mapping[str, Any]] = {
    "burnish": {"packing": False},
    "burnish, packed": {"packing": True},
    "burnish, mixed": {"packing": False, "dtype": "mixed"},
}
PEERS = {"trl": "trl", "trl, packed": "trl", "trainer": ""}  # and what must be in --peers-dir
INSTALL = (
    "{python} -m pip install --no-deps --target {folder} trl==1.16.0 datasets==5.2.0 pandas==3.1.1 xxhash==4.1.0 "
    "multiprocess==0.70.19"
)
HELD_OUT = 40  # rows, as many as the bundled set has
# Nats on the rows held out by which ours may be above the plain Trainer: the order of the samples makes some.
LEARNS_AS_WELL = 0.02
# Where samples attend to each other, logits differ by tens; rounding makes 1e-4.
LEAKS = 0.1


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    steps: int
    turns: int


SIZES = {"small": Size(6, 2), "full": Size(12, 3)}
GIVEN, LARGE = "given", "large"  # the model that is named, and one of a billion weights


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="files, besides the bundled set")
    parser.add_argument("--peers-dir", type=Path, default=Path("build/peers"), help="where peers were installed")
    parser.add_argument("--courses", nargs="+", choices=[GIVEN, LARGE], default=[GIVEN, LARGE], help="large: on a GPU")
    parser.add_argument(
        "--contenders", nargs="+", choices=[*OURS, *PEERS], default=["burnish", "burnish, packed", *PEERS]
    )
    parser.add_argument("--turns", type=int)
    parser.add_argument("--steps", type=int, help="of the optimiser; the first two are not timed")
    parser.add_argument("--samples", type=int, default=16, help="of an optimiser step")
    parser.add_argument("--per-device", type=int, default=4, help="samples of a forward pass")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a sample; longer ones are left out")
    parser.add_argument("--large-samples", type=int, default=256, help="--samples of the large course")
    parser.add_argument("--large-per-device", type=int, default=32, help="its --per-device")
    parser.add_argument("--large-max-tokens", type=int, default=512, help="its --max-tokens")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    given = parser.parse_args()
    if given.steps is not None and given.steps <= WARMUP:
        parser.error(f"--steps must be more than {WARMUP}")
    if given.samples % given.per_device or given.large_samples % given.large_per_device:
        parser.error("--samples must be a multiple of --per-device")
    return given


@dataclass(frozen=True)
class Course:
    """One model that is trained on one data set in one way."""

    name: str
    base: Path
    work: Workload
    recipe: Recipe
    flops: int = 0  # that an epoch takes; 0: not told


@dataclass(frozen=True)
class Processes:
    """What runs all the time, and waits while others are timed."""

    client: Client
    server: int  # process id
    judge: Peer


class Bench:
    """The runs of the contenders, and what is said of them."""

    def __init__(self, given: argparse.Namespace, folder: Path, processes: Processes) -> None:
        self.report = Report()
        self._given = given
        self._peers_dir = given.peers_dir.resolve()
        self._turns = given.turns or SIZES[given.size].turns
        self._folder = folder
        self._processes = processes
        self._judge = processes.judge
        self._contenders = self._present(given.contenders)
        self._peak = self._judge.ask({"peak": True})

    def _present(self, names: Sequence[str]) -> list[str]:
        why = {name: absent(PEERS[name], self._peers_dir) for name in names if PEERS.get(name)}
        missing = {name: reason for name, reason in why.items() if reason}
        if missing:
            command = INSTALL.format(python=sys.executable, folder=self._peers_dir)
            self.report.notes["absent"] = {"why": missing, "install": command}
            say(f"without {' and '.join(missing)}; {command}")
        return [name for name in names if name not in missing]

    def courses(self) -> list[Course]:
        """Each data set with the model, and on a GPU with a larger one as well."""
        model = self._given.model.resolve()
        courses = self._given_courses(model) if GIVEN in self._given.courses else []
        if LARGE in self._given.courses and self._peak["device"]:
            courses += self._large_courses(model)
        if not courses:
            raise SystemExit("there is no GPU to train the large model on")
        return courses

    def _given_courses(self, model: Path) -> list[Course]:
        base = self._folder / "base"
        self._judge.ask({"make": str(model), "out": str(base)})
        recipe = recipe_of(self._given)
        works = self._works(recipe, "data", [None, *self._given.data])
        return [Course(work.name, base, work, recipe) for work in works]

    def _large_courses(self, model: Path) -> list[Course]:
        base = self._folder / "large"
        made = self._judge.ask({"make_random": str(model), "out": str(base)})
        peak, device = self._peak["flops"], self._peak["device"]
        self.report.notes["gpu"] = {"peak_bf16_flops": peak, "device": device, "shape": made["shape"]}
        recipe = recipe_of(self._given, large=True)
        courses = []
        for work in self._works(recipe, "large-data", self._given.data or [None], repeat=True):
            flops = training_flops(ONE_BILLION, work.lengths, work.response_tokens)
            courses.append(Course(f"{work.name}, 1B", base, work, recipe, flops))
        return courses

    def _works(
        self, recipe: Recipe, name: str, paths: Sequence[Path | None], *, repeat: bool = False
    ) -> list[Workload]:
        """Of data files, or None for the bundled set."""
        tokenizer = HfTokenizer(self._given.model.resolve())
        sizes = (recipe.num_samples, HELD_OUT, recipe.max_tokens)
        return [
            workload(path, tokenizer, sizes, self._folder / f"{name}-{number}", repeat=repeat)
            for number, path in enumerate(paths)
        ]

    def run(self, course: Course) -> None:
        """All turns of all contenders."""
        say(f"{course.name}: {len(course.work.lengths)} samples of {course.work.num_tokens} tokens a run")
        before = self._held_out(course, course.base)
        counts = {"tokens": course.work.num_tokens, "responses": course.work.response_tokens}
        self.report.note("data", course.name, **counts, recipe=vars(course.recipe))
        self.report.add(course.name, "before", "held-out loss", "nats", [before])
        timed: dict[str, list[Trained]] = {name: [] for name in self._contenders}
        losses: dict[str, list[float]] = {name: [] for name in self._contenders}
        for turn in range(self._turns):
            for name in self._contenders:
                one, loss = self._once(name, course, turn)
                say(f"{course.name} {name}: {one.tokens / one.seconds:.0f} tokens per second, held out {loss:.4f}")
                timed[name].append(one)
                losses[name].append(loss)
        self._tell(course, timed, losses)

    def _once(self, name: str, course: Course, turn: int) -> tuple[Trained, float]:
        folder = self._folder / "run"
        folder.mkdir()
        at_rest = self._device_mib()
        task = Task(course.base, course.work, course.recipe, turn, folder, lambda: self._device_mib() - at_rest)
        try:
            if name in OURS:
                one = train_ours(self._processes.client, self._processes.server, OURS[name], task)
            else:
                one = train_peer(name, self._peers_dir, task)
            return one, self._held_out(course, task.model)
        except SystemExit as failure:
            raise SystemExit(f"{name}: {failure}") from failure
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _device_mib(self) -> float:
        """Memory of the GPU that is taken, by whomever; 0 where there is none."""
        return float(self._judge.ask({"device_memory": True})["mib"])

    def _held_out(self, course: Course, model: Path) -> float:
        return float(self._judge.ask({"loss": str(model), "held_out": str(course.work.held_out)})["loss"])

    def _tell(self, course: Course, timed: dict[str, list[Trained]], losses: dict[str, list[float]]) -> None:
        rates = {name: [one.tokens / one.seconds for one in turns] for name, turns in timed.items()}
        for name, turns in timed.items():
            add = self.report.add
            add(course.name, name, "tokens", "per second", rates[name])
            add(course.name, name, "peak memory", "MiB", [one.peak_mib for one in turns])
            if self._peak["device"]:
                add(course.name, name, "device memory", "MiB", [one.device_mib for one in turns])
            add(course.name, name, "training loss", "nats", [one.train_loss for one in turns])
            add(course.name, name, "held-out loss", "nats", losses[name])
            if course.flops:
                each = course.flops / course.work.num_tokens
                add(course.name, name, "model", "FLOP/s", [each * rate for rate in rates[name]])
                share = [100 * each * rate / self._peak["flops"] for rate in rates[name]]
                add(course.name, name, "of bfloat16 products", "%", share)
            if turns[-1].remarks:
                self.report.note("remarks", course.name, **{name: turns[-1].remarks})
        for ours in OURS:
            for name in rates:
                if ours in rates and name not in (ours, "burnish, packed", "burnish, mixed"):
                    self.report.ratios[f"{course.name}: {ours} / {name}"] = ratio(rates[ours], rates[name])
        self._check(course, timed, losses)

    def _check(self, course: Course, timed: dict[str, list[Trained]], losses: dict[str, list[float]]) -> None:
        """What must not be, besides being slow."""
        for name in OURS:
            more = max(
                (a - b for a, b in zip(losses.get(name, []), losses.get("trainer", []), strict=False)), default=0
            )
            if more > LEARNS_AS_WELL:
                self.report.problems.append(
                    f"{course.name}: {name} ends {more:.3f} nats above trainer on rows held out"
                )
        for name, turns in timed.items():
            differs = turns[-1].remarks.get("largest_difference_of_a_packed_logit", 0.0)
            if differs > LEAKS:
                self.report.problems.append(f"{course.name}: samples that {name} packed attend to each other")


def table(results: Sequence[Result], ratios: Mapping[str, Ratio]) -> str:
    """For people; `bench.results` has too few decimals for losses."""
    lines = [
        f"{r.dataset:<16} {r.contender:<16} {r.quantity:<20} {number(r.value):>10} {r.unit}"
        f"  ({number(r.min)} to {number(r.max)})"
        for r in results
    ]
    lines += [f"{name}: {r.median:.2f} ({r.min:.2f} to {r.max:.2f})" for name, r in ratios.items()]
    return "\n".join(lines)


def number(value: float) -> str:
    """With what is worth saying."""
    return f"{value:.4f}" if value < 10 else f"{value:,.1f}" if value < 1e6 else f"{value:.3g}"


def processes(stack: ExitStack, folder: Path, threads: int) -> Processes:
    """Started; they end with the stack."""
    services = stack.enter_context(LocalServices(["training"], state_dir=folder / "state", engine="transformers"))
    client = stack.enter_context(Client(services.endpoints))
    judge = stack.enter_context(started("bench.training.judge", "--threads", str(threads)))
    return Processes(client, services.pids[0], judge)


def recipe_of(given: argparse.Namespace, *, large: bool = False) -> Recipe:
    """What the command line asks for, of the given course or of the large one."""
    return Recipe(
        steps=given.steps or SIZES[given.size].steps,
        samples_per_step=given.large_samples if large else given.samples,
        per_device=given.large_per_device if large else given.per_device,
        learning_rate=given.learning_rate,
        max_tokens=given.large_max_tokens if large else given.max_tokens,
        threads=len(os.sched_getaffinity(0)),
    )


def main() -> None:
    """See the module."""
    given = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(given, folder, processes(stack, folder, len(os.sched_getaffinity(0))))
        for course in bench.courses():
            try:
                bench.run(course)
            except SystemExit as failure:  # the other data sets still have something to say
                bench.report.problems.append(f"{course.name}: {failure}")
    report = bench.report
    print(table(report.results, report.ratios), *report.problems, sep="\n", file=sys.stderr)
    write("training", report.results, report.ratios, {"size": given.size, **report.notes})
    if report.problems:
        raise SystemExit("; ".join(report.problems))


if __name__ == "__main__":
    main()
