"""Recipes on data with flaws that are known: do they find them, and does that make better models?

`python -m bench.efficacy --help` says how it is run, docs/efficacy.md what it measures and what was found.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.efficacy.arms import NOISY, ORACLE, there
from bench.efficacy.cell import Cell
from bench.efficacy.grid import Known, cells, expected_of, rows_of, with_base, without_known, work
from bench.efficacy.merge import merged
from bench.efficacy.options import arguments
from bench.efficacy.page.data import read
from bench.efficacy.page.files import read_files, write_page
from bench.efficacy.reading import read_cell
from bench.efficacy.record import Record, record_of
from bench.efficacy.sizes import Estimate
from bench.efficacy.tell import results_of, table
from bench.embedding.setup import say
from bench.results import machine
from bench.results import write as write_results


def main() -> None:
    """See the module."""
    given, on = arguments(), machine()  # the commit that it began with
    arms, lacking = there([*given.arms, NOISY, ORACLE])
    if lacking:
        say(f"left out, for this build has no such recipe or setting: {', '.join(lacking)}")
    try:
        known = [merged(read_files(given.known))] if given.known else []
    except ValueError as error:
        raise SystemExit(f"--known: {error}") from error
    by_cell = {(one["task"], float(one["noise"]), int(one["seed"])): one for file in known for one in file["cells"]}
    asked, expected = _asked(given, arms, by_cell)
    with ThreadPoolExecutor(given.jobs) as pool:
        problems = [problem for problem in pool.map(work, asked) if problem]
    ended = [read_cell(cell) for cell in asked]
    problems += [problem for one in ended for problem in one.problems]
    found = [record_of(one) for one in ended if one.arms]
    document = merged([*known, _document(given, on, lacking, expected, found, problems)])
    if document["cells"]:
        _tell(document, given.out / "efficacy.html")
    if problems:
        raise SystemExit("; ".join(problems))


def _asked(given: argparse.Namespace, arms: Sequence[str], known: Known) -> tuple[list[Cell], Estimate]:
    """The cells that are to be worked, their data written and their base models trained, and what was reckoned of
    them."""
    tasks = dict(rows_of(given))
    for task, rows in tasks.items():
        say(f"{task}: {len(rows.rows)} rows of at most {given.max_tokens} tokens, {rows.tokens:.0f} on average")
    expected = expected_of(given, tasks, arms, known)
    say(f"{expected}")
    asked, until = list[Cell](), time.time() + given.max_seconds
    for task, there_are in tasks.items():
        model, rows = with_base(given, task, there_are)
        asked += [without_known(cell, known) for cell in cells(given, task, rows.rows, arms, model, until)]
    return asked, expected


def _document(
    given: argparse.Namespace,
    on: Record,
    lacking: Sequence[str],
    expected: Estimate,
    found: Sequence[Record],
    problems: Sequence[str],
) -> Record:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    options["known"] = [str(path) for path in given.known]
    options["data"] = {task: str(path) for task, path in given.data.items()}
    options["max_seconds"] = None if given.max_seconds == float("inf") else given.max_seconds
    return {
        "machine": on,
        "command": f"python -m bench.efficacy {shlex.join(sys.argv[1:])}",
        "options": options,
        "left_out": lacking,
        "estimated_seconds": expected.seconds,
        "cells": found,
        "problems": problems,
    }


def _tell(document: Record, page: Path) -> None:
    print(table(document["cells"], document["gap"]), *document["problems"], sep="\n", file=sys.stderr)
    write_results("efficacy", results_of(document["cells"]), {}, document)
    write_page(read(document), page)
    say(f"the page: {page}")


if __name__ == "__main__":
    main()
