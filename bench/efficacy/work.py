"""One part of one seed, in a process of its own with services of its own: `python -m bench.efficacy.work ORDER`.

May be killed at any moment and begun again: the recipes go on from their ledger, and the other models are runs of the
training service, found again by their names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.efficacy.order import PLAIN, Order, Outcome
from bench.embedding.setup import say
from burnish import AsyncClient, Client, Hyperparameters, Message, ModelRef, Role, RunResult, RunSpec, Sample
from burnish.coordinator.content import digest_of
from burnish.coordinator.errors import Interrupted
from burnish.coordinator.loop import finished, run_recipe_async
from burnish.coordinator.progress import Observer, StepProgress
from burnish.coordinator.recipes.base import RecipeSettings, TrainingSettings
from burnish.coordinator.recipes.bds import loop as rounds
from burnish.coordinator.recipes.registry import settings_of
from burnish.local import EngineOptions, LocalServices

NOISY, ORACLE = "all rows", "right rows only"


def main() -> None:
    """See the module."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    order = Order.parse(sys.argv[1])
    if time.time() > order.until:
        say(f"seed {order.seed}: no time left for its {order.part} part")
    elif order.part == PLAIN:
        train_plain(order)
    else:
        run_recipes(order)


def end_with_parent() -> None:
    """Ends this process, and so its services, once nobody holds the other end of standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


def train_plain(order: Order) -> None:
    """The models that no recipe trains, but as recipes do: on all rows, and on the right ones."""
    found = Outcome.read(order.outcome)
    data = {NOISY: order.files.training, ORACLE: order.files.right}
    missing = {arm: path for arm, path in data.items() if arm not in found.losses}
    if not missing:
        return
    held_out = list(samples(order.files.held_out))
    hyperparameters = replace(TrainingSettings(**order.training).hyperparameters(), seed=order.seed)
    with (
        services(order, ("scoring", "training")) as local,
        Client(local.endpoints) as client,
    ):
        for arm, path in missing.items():
            if time.time() > order.until:
                say(f"seed {order.seed}: no time left for {arm}")
                return
            result = trained(client, order, path, hyperparameters)
            loss = held_out_loss(client, result.model, held_out)
            say(f"seed {order.seed}: {arm}: {loss:.4f} after {result.seconds:.0f} s")
            found = Outcome({**found.losses, arm: loss}, {}, {**found.seconds, arm: result.seconds})
            found.write(order.outcome)


def trained(client: Client, order: Order, data: Path, hyperparameters: Hyperparameters) -> RunResult:
    """The base model after training on a file. The run's name is made from its content, so that one that was begun is
    found again."""
    output = Path(order.folder) / "models" / data.stem
    spec = RunSpec(ModelRef(order.model), str(data), output_uri=str(output), hyperparameters=hyperparameters)
    name = f"{data.stem}-{digest_of([data.read_text(encoding='utf-8'), repr(spec)])[:12]}"
    return client.training.create(spec, name).result()


def held_out_loss(client: Client, model: ModelRef, rows: list[Sample]) -> float:
    """Over all response tokens of all rows together, as recipes reckon it. Raises SystemExit where a row fails."""
    scores = client.scoring.score(rows, model=model).scores
    failed = [score.sample_id for score in scores if score.sum_nll is None]
    if failed:
        raise SystemExit(f"{len(failed)} held-out rows were not scored, the first: {failed[0]}")
    return sum(score.sum_nll or 0.0 for score in scores) / sum(score.num_tokens for score in scores)


def run_recipes(order: Order) -> None:
    """The recipes, one after the other."""
    all_of_them = {recipe: recipe_settings(order, recipe) for recipe in order.recipes}
    kinds = {name: one for name, one in all_of_them.items() if finished(one, order.recipe_dir(name)) is None}
    if not kinds:
        return
    roles = tuple(sorted({role for settings in kinds.values() for role in settings.services()}))
    with services(order, roles) as local:
        for recipe, settings in kinds.items():
            if time.time() > order.until:
                say(f"seed {order.seed}: no time left for {recipe}")
                return
            asyncio.run(run_one(order, recipe, settings, local))


def recipe_settings(order: Order, recipe: str) -> RecipeSettings:
    """Raises InputError where a setting is wrong."""
    files = order.files
    common = {
        "data": [str(files.training)],
        "validation": [str(files.validation)],
        "holdout": [str(files.held_out)],
        "model": order.model,
        "seed": order.seed,
        "training": {**order.training, "seed": order.seed},
    }
    return settings_of(recipe).parse({**common, **order.settings.get("all", {}), **order.settings.get(recipe, {})})


class StopBetweenModels(Observer):
    """Stops a run once time is up and it is not about to use what it has just trained."""

    def __init__(self, order: Order, recipe: str, stop: asyncio.Event) -> None:
        self._order = order
        self._recipe = recipe
        self._stop = stop

    def step_finished(self, step: StepProgress) -> None:
        """See Observer."""
        say(f"seed {self._order.seed}: {self._recipe}: round {step.round} {step.name}, {step.seconds:.0f} s")
        between = step.name == "assemble" or (step.name == "evaluate" and step.round != rounds.D)
        if between and time.time() > self._order.until:
            self._stop.set()


async def run_one(order: Order, recipe: str, settings: RecipeSettings, local: LocalServices) -> None:
    """One recipe, to its end or until time is up."""
    stop = asyncio.Event()
    async with AsyncClient(local.endpoints) as client:
        try:
            await run_recipe_async(
                settings,
                client,
                order.recipe_dir(recipe),
                observer=StopBetweenModels(order, recipe, stop),
                stop=stop,
                ledger=order.ledger,
            )
        except Interrupted:
            say(f"seed {order.seed}: {recipe} stopped where time was up; the same command goes on")


def services(order: Order, roles: tuple[str, ...]) -> LocalServices:
    """To be started; what they keep is in the seed's folder."""
    return LocalServices(
        roles,
        state_dir=Path(order.folder) / f"services-{order.part}",
        model=order.model,
        engine=order.engine,  # type: ignore[arg-type]
        options=EngineOptions(dtype=order.dtype),
    )


def samples(path: Path) -> Iterator[Sample]:
    """The rows of a file of this bench."""
    with path.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            turns = (Message(Role(turn["role"]), turn["content"]) for turn in record["messages"])
            yield Sample(record["id"], tuple(turns))


if __name__ == "__main__":
    main()
