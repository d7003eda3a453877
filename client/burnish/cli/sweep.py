"""sweep: a small grid of runs on one ledger, and a table of what came of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Screen

from burnish._errors import UsageError
from burnish.cli.data import Reading, check_data, check_place, with_reading
from burnish.cli.inspect_run import write_report_of
from burnish.cli.output import command, say_json, screen, visible
from burnish.cli.per_sample import ModelOption
from burnish.cli.recipe_options import Table, with_tables, work_of
from burnish.cli.run import RECIPES, HoldoutOption, JsonOption, parse, with_data, worked
from burnish.cli.run_progress import RunBars
from burnish.cli.services import ServiceChoice, with_services
from burnish.coordinator.atomic import write_json
from burnish.coordinator.history import RunHistory
from burnish.coordinator.ledger import check_free
from burnish.coordinator.paths import LEDGER, RunPaths
from burnish.coordinator.recipes.base import Problem, RecipeSettings, SettingsError
from burnish.coordinator.sweep import Point, PointResult, Sweep, begun, check_different, grid
from burnish.report.collect import collect
from burnish.report.data import ClearRound, FilterRound

_WIDEST = 1000  # columns
_ERROR_WIDTH = 60
sweep_app = typer.Typer(
    help="Run a small grid of settings on one ledger: what is shared is paid for once.", no_args_is_help=True
)

VaryOption = Annotated[
    list[str],
    typer.Option(
        "--vary",
        help="An option of the recipe without its dashes, and the values to try, such as eta=0.5,0.8; may be repeated,"
        " for all combinations. Where an option takes several values at once, join them by +.",
        metavar="NAME=V,V",
    ),
]
SweepDir = Annotated[
    Path, typer.Option("--out", help="Folder of the ledger, and of a run directory for each point.", metavar="DIR")
]


def sweep_command(kind: type[RecipeSettings], table: Table, text: str) -> Callable[..., None]:
    """The command that runs a grid of a recipe. `text` is its help's first sentence."""

    @command
    @with_tables(settings=table, work=work_of(table))
    @with_reading
    @with_services
    def sweep_it(
        services: ServiceChoice,
        settings: dict[str, Any],
        work: dict[str, Any],
        reading: Reading,
        model: ModelOption,
        out: SweepDir,
        vary: VaryOption,
        holdout: HoldoutOption = None,
        json_output: JsonOption = False,
    ) -> None:
        values = with_data(settings, reading, model, holdout)
        _sweep(services, kind, table, values, vary, work, out, json_output=json_output)

    sweep_it.__name__ = f"sweep_{kind.RECIPE}"
    sweep_it.__doc__ = (
        f"{text}\n\nInterrupted or killed, the same command goes on where it stopped. Every point is a run directory of"
        " its own."
    )
    return sweep_it


_EXAMPLES = {
    "middo": "A grid of runs of Middo, such as one axis at a time: --vary axis=hard,sparse,low_quality,hard+sparse.",
    "clear": "A grid of runs of CLEAR, such as its ablations: --vary signal=confidence,likelihood --vary"
    " control=none,random.",
    "mads": "A grid of MADS-style selections, such as budgets by rules: --vary budget=5%,15% --vary"
    " rule=standardized_top_k,top_k.",
    "bmo": "A grid of self-refining selections, such as how answers weigh: --vary"
    " response-weighting=self_normalized,uniform --vary online-share=0.05,0.2.",
    "bds": "A grid of bilevel selections, such as its variants: --vary weighting=sigmoid,softmax --vary keep=0.6,0.8.",
    "auto": "A grid of runs of auto, such as over seeds: --vary seed=0,1,2.",
    "filter": "A grid of filters, such as signals by the same share: --keep 0.7 --among 0 --vary"
    " signal=length,loss,total_loss,weakest,ifd,pmi,cross_loss,cross_gain,cross_weakest.",
}
for _name, (_kind, _table, _) in RECIPES.items():
    sweep_app.command(_name)(sweep_command(_kind, _table, _EXAMPLES[_name]))


def _sweep(
    services: ServiceChoice,
    kind: type[RecipeSettings],
    table: Table,
    values: Mapping[str, Any],
    vary: Sequence[str],
    work: Mapping[str, Any],
    out: Path,
    *,
    json_output: bool,
) -> None:
    check_place(out)
    check_free(out / LEDGER)  # before services are started for nothing
    paths = setting_paths(table)
    points = [Point(v, parse(kind, varied(values, paths, v), with_effect=False)) for v in grid(asked(vary, paths))]
    check_different(points)
    if not (out / LEDGER).exists():
        _check_effect(points)
        check_data(points[0].settings)
    roles = [role for role in kind.ALL_SERVICES if any(role in point.settings.services() for point in points)]
    options = worked(work, points[0].settings, services)
    with begun(points, out) as one:
        if not one.is_done(options):
            _check_models(points, services)
            with (
                services.client(
                    roles,
                    points[0].settings.model,
                    RunPaths(out).services,
                    models=points[0].settings.models(),
                    quiet=json_output,
                ) as client,
                RunBars(visible=not json_output) as bars,
            ):
                one.run(client, options, bars)
    records = _records(one, options.truth)
    write_json(out / "sweep.json", records)
    if json_output:
        say_json(records)
    else:
        drawn = _drawn(records)
        whole = Measurement.get(screen, Console(width=_WIDEST).options, drawn).maximum
        Console(width=whole).print(drawn)  # never cut: what does not fit is for the window to wrap
    one.check()


def _records(swept: Sweep, truth: str) -> list[dict[str, Any]]:
    """What came of each point, in order; writes the reports. Of those that could not be done, why."""
    made = {result.point.name: result for result in swept.results()}
    return [
        _record(made[point.name], truth)
        if point.name in made
        else {**point.varied, "error": swept.failures[point.name].message, "run": str(folder)}
        for point, folder in zip(swept.points, swept.folders, strict=True)
    ]


def _check_effect(points: Sequence[Point]) -> None:
    """Raises SettingsError for what does nothing at any of the points; at some it may."""
    told = [
        {one.name: one.said for one in point.settings.without_effect() if one.is_given_in(point.settings)}
        for point in points
    ]
    if nowhere := [said for name, said in told[0].items() if all(name in others for others in told)]:
        raise SettingsError([Problem("", f"{said}, and at none of the {len(points)} points", None) for said in nowhere])


def _check_models(points: Sequence[Point], services: ServiceChoice) -> None:
    """Raises UsageError where services that are started here would need other models for some points."""
    given = any(getattr(services.endpoints, role) for role in RecipeSettings.ALL_SERVICES)
    if not given and any(point.settings.models() != points[0].settings.models() for point in points):
        raise UsageError(
            "What is varied names models of services' own (selector, refiner), and services that are started here keep"
            " to the shape of one: sweep each by itself, or start services that hold them and give their addresses."
        )


def setting_paths(table: Table) -> dict[str, str]:
    """By option without dashes, the setting that it sets."""
    flags = {str(option.__metadata__[0].default): path for path, option in table.values()}
    return {flag.split("/")[0].removeprefix("--"): path for flag, path in flags.items()}


def asked(vary: Sequence[str], paths: Mapping[str, str]) -> dict[str, list[str]]:
    """What is to be varied, with its values; those of an option that is named again are added. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for text in vary:
        name, equals, listed = text.partition("=")
        values = [value for value in listed.split(",") if value]
        if not equals or not values:
            raise UsageError(f"--vary {text}: expected an option's name and its values, such as eta=0.5,0.8.")
        if name not in paths:
            raise UsageError(f"--vary {text}: there is no option --{name}; expected one of {', '.join(sorted(paths))}.")
        found.setdefault(name, []).extend(values)
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def varied(values: Mapping[str, Any], paths: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, Any]:
    """The settings of one point."""
    result = copy.deepcopy(dict(values))
    for name, value in chosen.items():
        *groups, last = paths[name].split(".")
        target = result
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value.split("+") if "+" in value and not _is_number(value) else value
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _record(result: PointResult, truth: str) -> dict[str, Any]:
    """What came of one point; writes its report."""
    write_report_of(result.out, truth=truth)
    known = _known(result.out, truth) if truth else None
    record: dict[str, Any] = {
        **result.point.varied,
        "rows_out": result.rows_out,
        **{f"rows_{name}" if name in result.point.varied else name: n for name, n in result.actions.items()},
        "held_out_loss": result.losses[1],
        "new_items": result.items - result.reused,
        "seconds": round(result.seconds, 1),
    }
    if known is not None:
        record |= known
    return record | {"run": str(result.out)}


def _known(out: Path, truth: str) -> dict[str, Any] | None:
    """How the first round of CLEAR, or of a filter, agrees with what is known: the AUROC is that of the signal that it
    went by."""
    with RunHistory.open(out) as history:
        collected = collect(history, truth=truth)
    first = collected.rounds[0]
    if not isinstance(first, ClearRound | FilterRound) or not collected.truth:
        return None
    against, signal = collected.truth[0], first.thresholds[0].signal
    auroc = next((one.auroc for one in against.signals if one.signal == signal), None)
    if isinstance(first, FilterRound):
        dropped = next((one for one in against.found if one.done == "dropped"), None)
        shares = (None, None) if dropped is None else (dropped.precision.value, dropped.recall.value)
        return {"auroc": auroc, "precision": shares[0], "recall": shares[1]}
    found = first.calibration
    if found is None:
        return None
    return {"auroc": auroc, "precision": found.precision, "recall": found.recall, "harmed": found.harmed}


def _drawn(records: Sequence[Mapping[str, Any]]) -> Screen:
    """The records as a table; where a run is can be told from what it varies."""
    known = dict.fromkeys(name for record in records for name in record)
    names = [name for name in known if name not in ("run", "error")] + (["error"] if "error" in known else [])
    drawn = Screen(*(name.replace("_", " ") for name in names), box=SIMPLE_HEAD, pad_edge=False)
    for record in records:
        drawn.add_row(*(_brief(record) if name == "error" else _cell(record.get(name)) for name in names))
    return drawn


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _brief(record: Mapping[str, Any]) -> str:
    """The beginning of a point's error; all of it is told below the table."""
    text = visible(" ".join(str(record.get("error", "–")).split()))
    return text if len(text) <= _ERROR_WIDTH else text[: _ERROR_WIDTH - 1] + "…"
