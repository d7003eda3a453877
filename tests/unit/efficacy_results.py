"""Made-up results of the efficacy bench, and what tests read of its page and of its tables."""

from __future__ import annotations

import json
import random
import re
import statistics
from collections.abc import Callable
from html import unescape
from typing import Any

from bench.efficacy.page.data import Efficacy, Panel, read

ARMS: dict[str, tuple[str, float, float, float | None]] = {  # kind, share of the gap it wins, seconds, AUROC
    "all rows": ("nothing", 0.0, 31, None),
    "right rows only": ("oracle", 1.0, 24, None),
    "direct mix": ("baseline", 0.1, 33, None),
    "longest": ("baseline", -0.2, 26, 0.44),
    "perplexity": ("baseline", 0.21, 35, 0.66),
    "ifd": ("baseline", -0.1, 41, 0.38),
    "pmi": ("baseline", 0.33, 42, 0.71),
    "cross loss": ("recipe", 0.55, 78, 0.83),
    "cross gain": ("recipe", 0.62, 86, 0.87),
    "calibrated": ("recipe", 0.74, 96, 0.91),
    "middo": ("recipe", 0.02, 410, 0.55),
    "clear": ("recipe", 0.38, 350, 0.78),
    "mads": ("recipe", -0.05, 52, None),
    "bds": ("recipe", 0.44, 240, 0.72),
    "bmo": ("recipe", 0.4, 390, 0.72),
    "auto": ("recipe", 0.7, 110, 0.91),
    "confidence → coverage → weights": ("combination", 0.68, 131, 0.88),
}
FLAWS = {
    "extractive_qa": ("other span", "whole sentence", "vague", "duplicate"),
    "maths": ("wrong number", "cut off", "vague", "duplicate"),
    "instructions": ("swapped", "cut off", "vague", "duplicate"),
    "procedural": ("other procedure", "slip", "vague", "duplicate"),
}
SCORES = {"extractive_qa": "token F1", "maths": "same number", "instructions": "token F1", "procedural": "exact match"}


def cell(task: str, noise: float, seed: int, rows: int = 400) -> dict[str, Any]:
    """Made up, in the form of the bench's own."""
    rng = random.Random(f"{task} {noise} {seed}")
    number = list(FLAWS).index(task)
    clean, lost = 0.9 + 0.4 * number, (0.5, 0.02, 0.28, 0.65)[number] * noise
    base = rng.gauss(clean, 0.04)
    deviations = [-0.1, -0.05, 0.0, 0.05, 0.1]

    def made(kind: str, share: float, seconds: float, kept: float) -> dict[str, Any]:
        loss = base + lost * (1 - share) + rng.gauss(0, 0.012)
        score = None if task == "instructions" else max(0.0, min(1.0, 0.62 - 0.3 * (loss - clean) - 0.1 * number))
        trained = 31 * kept
        return {
            "kind": kind,
            "loss": loss,
            "score": score,
            "rows": round(rows * kept),
            "trained_seconds": trained,
            "seconds": seconds * (1 + 0.4 * number),
            "held_out_nats": [loss + deviation for deviation in deviations],
            "held_out_scores": None if score is None else [score] * len(deviations),
        }

    arms, signals = {}, {}
    for name, (kind, share, seconds, auroc) in ARMS.items():
        kept = 1 - noise if kind == "oracle" else 1.0 if name in ("all rows", "direct mix") else 0.7
        arms[name] = made(kind, share + rng.gauss(0, 0.03), seconds, kept)
        if kind in ("recipe", "combination") or (kind == "baseline" and kept < 1):
            arms[f"random, as {name}"] = made("control", -0.12, 22, kept)
        if auroc is not None and noise:
            by_kind = {
                flaw: min(0.99, max(0.05, auroc + (0.1, -0.12, -0.2, -0.36)[place] + rng.gauss(0, 0.02)))
                for place, flaw in enumerate(FLAWS[task])
            }
            signals[name] = {
                "auroc": statistics.fmean(by_kind.values()),
                "precision": auroc - 0.1,
                "recall": auroc - 0.15,
                "auroc_by_kind": by_kind,
            }
    return {
        "task": task,
        "noise": noise,
        "seed": seed,
        "rows": rows,
        "wrong": round(noise * rows),
        "made_of": f"{task} {noise} {seed}",
        "held_out_tokens": [1] * len(deviations),
        "arms": arms,
        "score_name": SCORES[task],
        "signals": signals,
    }


def gaps(cells: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """Of the cells of one task and noise: by arm, the gap with an interval of its seeds."""
    sign = 1 if measure == "loss" else -1
    told: dict[str, Any] = {}
    if any(one["arms"]["all rows"][measure] is None for one in cells):
        return dict.fromkeys(cells[0]["arms"])
    all_rows, right = ([one["arms"][name][measure] for one in cells] for name in ("all rows", "right rows only"))
    lost = sign * (statistics.fmean(all_rows) - statistics.fmean(right))
    for name in cells[0]["arms"]:
        won = [sign * (a - one["arms"][name][measure]) / lost for a, one in zip(all_rows, cells, strict=True)]
        width = 2 * (statistics.stdev(won) if len(won) > 1 else 0.1)
        mean = statistics.fmean(won)
        told[name] = {"mean": mean, "low": mean - width, "high": mean + width, "seeds": won} if lost > 0.012 else None
    return told


def results(
    tasks: tuple[str, ...] = tuple(FLAWS), noises: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5), seeds: int = 3
) -> dict[str, Any]:
    """As `bench.results.write` has it."""
    cells = [cell(task, noise, seed) for task in tasks for noise in noises for seed in range(seeds)]
    gap: dict[str, Any] = {}
    for task in tasks:
        for noise in noises:
            of_it = [one for one in cells if (one["task"], one["noise"]) == (task, noise)]
            losses, scores = gaps(of_it, "loss"), gaps(of_it, "score")
            gap.setdefault(task, {})[f"{noise:g}"] = {
                name: {"loss": losses[name], "score": scores[name]} for name in losses
            }
    return {
        "bench": "efficacy",
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "python": "3.12",
            "when": "2026-11-29T02:00:00+00:00, 2026-11-28T23:00:00+00:00",
        },
        "results": [],
        "ratios": {},
        "options": {"model": "models/tiny-model", "validation_rows": 100, "held_out_rows": 200, "seeds": seeds},
        "cells": cells,
        "gap": gap,
    }


def found_in(document: dict[str, Any]) -> Efficacy:
    return read(json.loads(json.dumps(document)))


def panel_of(found: Efficacy, task: str, noise: float) -> Panel:
    return next(panel for panel in found.panels if (panel.task, panel.noise) == (task, noise))


def without(document: dict[str, Any], gone: Callable[[str], bool]) -> dict[str, Any]:
    changed = json.loads(json.dumps(document))
    for one in changed["cells"]:
        for part in ("arms", "signals"):
            one[part] = {name: value for name, value in one[part].items() if not gone(name)}
    return changed


def cells_in(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows
    ]


def told(values: list[float], digits: int = 3) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def percent(value: float) -> str:
    return "0%" if abs(value) < 0.005 else f"{value:.0%}".replace("-", "−")


def tables_in(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
