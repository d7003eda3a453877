"""The command's table of contents."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from burnish.cli import capabilities, inspect_run, run, serve, sweep
from burnish.cli.collections import collections
from burnish.cli.confidence import confidence
from burnish.cli.explain import explain
from burnish.cli.output import Warnings
from burnish.cli.repair import repair_command
from burnish.cli.respond import respond
from burnish.cli.select import select
from burnish.cli.split import split
from burnish.cli.train import train

app = typer.Typer(
    name="burnish",
    help="Polish the data that a language model is fine-tuned on, with the model that learns from it.",
    epilog="Exit codes: 0 done; 1 the work failed; 2 wrong usage or bad input; 3 a service could not be reached or "
    "started, or object storage did not give the data; 130 interrupted and resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUNS = "Runs"
_ONE = "One capability on a file"
_SERVERS = "Services"
app.add_typer(run.run_app, name="run", rich_help_panel=_RUNS)
app.add_typer(sweep.sweep_app, name="sweep", rich_help_panel=_RUNS)
app.command("resume", rich_help_panel=_RUNS)(run.resume_command)
app.command(rich_help_panel=_RUNS)(inspect_run.status)
app.command(rich_help_panel=_RUNS)(inspect_run.report)
app.command(rich_help_panel=_RUNS)(explain)
app.command("export", rich_help_panel=_RUNS)(inspect_run.export_command)
app.command("repair", rich_help_panel=_RUNS)(repair_command)
app.command(rich_help_panel=_RUNS)(run.demo)
app.command(rich_help_panel=_RUNS)(split)
app.command(rich_help_panel=_ONE)(capabilities.score)
app.command(rich_help_panel=_ONE)(capabilities.judge)
app.command(rich_help_panel=_ONE)(confidence)
app.command(rich_help_panel=_ONE)(capabilities.embed)
app.command(rich_help_panel=_ONE)(select)
app.command(rich_help_panel=_ONE)(capabilities.rewrite)
app.command(rich_help_panel=_ONE)(respond)
app.command(rich_help_panel=_ONE)(train)
app.command(rich_help_panel=_SERVERS)(serve.up)
app.command(rich_help_panel=_SERVERS)(serve.doctor)
app.command(rich_help_panel=_SERVERS)(collections)


def _print_version(value: bool) -> None:
    if value:
        import burnish

        sys.stdout.write(f"burnish {burnish.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Polish the data that a language model is fine-tuned on, with the model that learns from it."""


def main() -> None:
    """Entry point of the `burnish` command."""
    logging.getLogger("burnish").addHandler(Warnings(logging.WARNING))
    app()
