"""run and resume: a whole recipe, from a data set to a better one and the model trained on it. demo: the same on the
bundled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish._client import Client
from burnish.cli.bds_options import BDS
from burnish.cli.bmo_options import BMO
from burnish.cli.clear_options import CLEAR
from burnish.cli.data import Reading, bundled, check_data, check_place, data_paths, with_reading
from burnish.cli.filter_options import AUTO, FILTER
from burnish.cli.inspect_run import write_report_of
from burnish.cli.mads_options import MADS
from burnish.cli.middo_options import MIDDO
from burnish.cli.output import command, say, say_json
from burnish.cli.per_sample import ModelOption
from burnish.cli.recipe_options import Table, with_tables, work_of
from burnish.cli.run_progress import RunBars
from burnish.cli.services import ServiceChoice, with_services
from burnish.coordinator.history import RunHistory
from burnish.coordinator.ledger import check_free
from burnish.coordinator.loop import RunSummary, finished, resume, run_recipe
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import Observer, starting
from burnish.coordinator.recipes.auto.settings import AutoSettings
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions, SamplingSettings, parse_settings
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.recipes.registry import settings_in
from burnish.coordinator.truth import checked

run_app = typer.Typer(help="Run a recipe, or go on with one that was interrupted.", no_args_is_help=True)

OutDir = Annotated[
    Path, typer.Option("--out", help="Run directory: ledger, models, final data, report.", metavar="DIR")
]
RunDir = Annotated[Path, typer.Argument(help="Run directory, as given to --out.", metavar="DIR")]
HoldoutOption = Annotated[
    list[str] | None,
    typer.Option("--holdout", help="Held-out data that losses are measured on.", metavar="PATH"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The outcome as JSON on standard output.")]
# How the bundled model and data are run: minutes and 10 GB on two cores (README.md has what was measured). Training is
# most of that, so a round's model sees a third of the rows. A tenth of the rows on each axis, since how many lie beyond
# a threshold depends on the machine's arithmetic.
DEMO: dict[str, Any] = {
    "rounds": 2,
    "share_loss": 0.1,
    "share_sparse": 0.1,
    "share_quality": 0.1,
    "training": {
        "num_epochs": 1 / 3,
        "learning_rate": 1e-4,
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 2,
    },
    "judge": {"temperature": 0.0, "max_tokens": 4},
    "rewrite": {"max_tokens": 160, "temperature": 0.7},
}
DEMO_CONTEXT = 1024  # tokens


def recipe_command(kind: type[RecipeSettings], table: Table, text: str) -> Callable[..., None]:
    """The command that runs a recipe, with its settings as options. `text` is its help."""

    @command
    @with_tables(settings=table, work=work_of(table))
    @with_reading
    @with_services
    def run_it(
        services: ServiceChoice,
        settings: dict[str, Any],
        work: dict[str, Any],
        reading: Reading,
        model: ModelOption,
        out: OutDir,
        holdout: HoldoutOption = None,
        json_output: JsonOption = False,
    ) -> None:
        values = with_data(settings, reading, model, holdout)
        _run(services, kind, values, work, out, json_output=json_output)

    run_it.__name__, run_it.__doc__ = f"run_{kind.RECIPE}", text
    return run_it


RECIPES: dict[str, tuple[type[RecipeSettings], Table, str]] = {
    "auto": (
        AutoSettings,
        AUTO,
        "Leave out what looks wrong, if that helps: rank rows by the token that the model finds least likely, and by"
        " how much they are like trusted rows (--trusted, needed), compared with their neighbours'; train on several"
        " shares of the best and on all rows, and let the trusted rows say which model is taken.\n\n"
        "All rows are kept unless another share is better. docs/filter.md has the method, docs/efficacy.md what it was"
        " measured to do. Interrupted or killed, the same command goes on where it stopped.",
    ),
    "middo": (
        MiddoSettings,
        MIDDO,
        "Middo: train, find what is too hard, sparse or of low quality, rewrite it, and go round again.\n\n"
        "Interrupted or killed, the same command goes on where it stopped.",
    ),
    "clear": (
        ClearSettings,
        CLEAR,
        "CLEAR: drop the responses that the model is not confident in, or correct them, and train on the rest.\n\n"
        "Interrupted or killed, the same command goes on where it stopped. `burnish explain DIR ROW` tells one row's"
        " story.",
    ),
    "mads": (
        MadsSettings,
        MADS,
        "MADS-style selection: train on the samples that together cover what the model's neurons do on all.\n\n"
        "With --holdout also on all rows and on random subsets, to compare with. Interrupted or killed, the same"
        " command goes on where it stopped.",
    ),
    "bds": (
        BdsSettings,
        BDS,
        "Bilevel data selection: learn from a small trusted set what each row is worth, and train on the best.\n\n"
        "With --holdout also on what that is to be compared with. Interrupted or killed, the same command goes on where"
        " it stopped.",
    ),
    "bmo": (
        BmoSettings,
        BMO,
        "Bilevel selection with online self-refinement: as bds, and while it trains the model answers anew what it"
        " trusts least.\n\n"
        "models/round-1 is the model so trained, models/round-2 the one trained on the data set that it leaves."
        " Interrupted or killed, the same command goes on where it stopped.",
    ),
    "filter": (
        FilterSettings,
        FILTER,
        "Filter by a signal: rank all rows by one measure, keep the best, and train on them. By default it drops the"
        " rows whose least likely token stands out among rows with similar prompts; that may be none or many.\n\n"
        "With --holdout also on all rows and on random subsets, and with --trusted on the trusted rows, to compare"
        " with. docs/filter.md has the signals."
        " Interrupted or killed, the same command goes on where it stopped.",
    ),
}
for _name, _recipe in RECIPES.items():
    run_app.command(_name)(recipe_command(*_recipe))


@command
@with_tables(settings=MIDDO, work=work_of(MIDDO))
@with_services
def demo(
    services: ServiceChoice,
    settings: dict[str, Any],
    work: dict[str, Any],
    model: ModelOption,
    out: OutDir,
    json_output: JsonOption = False,
) -> None:
    """Two rounds of Middo on the bundled data set, whose planted flaws the report counts.

    Options are those of `run middo`; data, held-out data and truth are the bundled ones.
    """
    values = for_the_demo(settings) | {"data": [str(bundled("demo.jsonl"))], "model": model}
    values["holdout"] = [str(bundled("demo_holdout.jsonl"))]
    if services.settings.max_model_len is None:
        services = services.with_context(DEMO_CONTEXT)
    _run(
        services,
        MiddoSettings,
        values,
        {"truth": str(bundled("demo_truth.jsonl"))} | work,
        out,
        json_output=json_output,
    )


@command
@with_services
def resume_command(services: ServiceChoice, directory: RunDir, json_output: JsonOption = False) -> None:
    """Goes on with an interrupted run, under the settings that it began with.

    The same as repeating the command that began it.
    """
    with RunHistory.open(directory) as history:
        settings = settings_in(history.run, RecipeSettings)
    with observed(services, settings, directory, quiet=json_output) as (client, observer):
        summary = resume(directory, client, observer=observer)
    _conclude(summary, json_output=json_output)


def with_data(settings: Mapping[str, Any], reading: Reading, model: str, holdout: list[str] | None) -> dict[str, Any]:
    """A recipe's settings as given, with the data and the model that it works on."""
    values = {**settings, **reading.settings(), "model": model}
    return values | ({"holdout": [str(p) for p in data_paths(holdout)]} if holdout else {})


def parse(kind: type[RecipeSettings], values: Mapping[str, Any], *, with_effect: bool = True) -> RecipeSettings:
    """A recipe's settings from what was given; of a group that was given in part, the rest is the recipe's default."""
    defaults = {name: field.default for name, field in kind.model_fields.items() if name in values}
    groups = {name: d.model_dump() | values[name] for name, d in defaults.items() if isinstance(d, SamplingSettings)}
    return kind.parse({**values, **groups}, with_effect=with_effect)


def worked(work: Mapping[str, Any], settings: RecipeSettings, services: ServiceChoice) -> RunOptions:
    """How a run is worked. Raises DataError where its truth cannot be found, InputError."""
    truth = work.get("truth")
    usual = {"models_uri": services.settings.models_uri}
    return parse_settings(RunOptions, {**usual, **work, **({"truth": checked(truth, settings)} if truth else {})})


def _run(
    services: ServiceChoice,
    kind: type[RecipeSettings],
    values: Mapping[str, Any],
    work: Mapping[str, Any],
    out: Path,
    *,
    json_output: bool,
) -> None:
    check_place(out)
    ledger = RunPaths.find(out).ledger
    check_free(ledger)  # before services are started for nothing
    is_new = not ledger.exists()
    settings = parse(kind, values, with_effect=is_new)  # one that was begun with such options goes on with them
    if is_new:
        check_data(settings)
    options = worked(work, settings, services)
    done = finished(settings, out, options)
    if done is not None:
        _conclude(done, json_output=json_output, truth=options.truth)
        return
    with observed(services, settings, out, quiet=json_output) as (client, observer):
        summary = run_recipe(settings, client, out, options=options, observer=observer)
    _conclude(summary, json_output=json_output)


def for_the_demo(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The demo's settings under those that were given, but for what those contradict."""
    replaced = {f"share_{name.removeprefix('m_')}" for name in settings if name.startswith("m_")}
    if settings.get("compat"):
        replaced = {name for name in DEMO if name.startswith("share_")} | {"judge"}
    usual = {name: value for name, value in DEMO.items() if name not in replaced}
    nested = {name: value | settings.get(name, {}) for name, value in usual.items() if isinstance(value, dict)}
    return {**usual, **settings, **nested}


@contextmanager
def observed(
    services: ServiceChoice, settings: RecipeSettings, out: Path, *, quiet: bool
) -> Iterator[tuple[Client, Observer]]:
    """The services that a run needs, and bars that show how far it is; its status says that it starts meanwhile."""
    with (
        starting(out),
        services.client(
            settings.services(), settings.model, RunPaths.find(out).services, models=settings.models(), quiet=quiet
        ) as client,
        RunBars(visible=not quiet) as observer,
    ):
        yield client, observer


def _conclude(summary: RunSummary, *, json_output: bool, truth: str = "") -> None:
    paths = RunPaths(summary.out_dir)
    report = write_report_of(paths.out, truth=truth)
    measured = {
        "base" if m.role == "base" else f"round-{m.round}": m.eval_loss
        for m in summary.models
        if m.eval_loss is not None and m.role != "refiner"
    }
    data = next((f for f in summary.files if f.stem == "data"), paths.final)
    base = next((m for m in summary.models if m.role == "base"), None)
    last = summary.final_model
    if json_output:
        say_json(
            {
                "run_id": summary.run_id,
                "report": report,
                "data": list(summary.files),
                "model": last and last.uri,
                "digest": last and last.digest,
                "rows_in": summary.rows_in,
                "rows_out": summary.rows_out,
                "held_out_losses": measured,
            }
        )
        return
    say(f"{summary.rows_in} rows in, {summary.rows_out} out.")
    if base is not None and last is not None and base.eval_loss is not None and last.eval_loss is not None:
        say(f"Held-out loss {base.eval_loss:.4f} with the base model, {last.eval_loss:.4f} with the last one.")
    say(f"report  {report}")
    say(f"data    {data}")
    if last is not None:
        say(f"model   {last.uri}")
