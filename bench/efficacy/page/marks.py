"""How arms are drawn: each kind has a colour and a shape of its own, so that either is enough to tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Style:
    """`shape`: of a mark at (x, y), as SVG. `words`: of the key."""

    shape: Callable[[float, float], str]
    words: str


@dataclass(frozen=True)
class Mark:
    """A line at a value that arms are compared with; `style` is a class of the page's style sheet."""

    label: str
    value: float
    style: str


def _circle(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _square(x: float, y: float) -> str:
    return f'<path d="M{x - 4:.1f} {y - 4:.1f}h8v8h-8z"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'


STYLES: Mapping[str, Style] = {
    "baseline": Style(_square, "simple rule"),
    "recipe": Style(_circle, "recipe"),
    "combination": Style(_diamond, "recipes combined"),
}


def mark(kind: str, x: float, y: float) -> str:
    """One mark; `kind` is a class of the page's style sheet."""
    return f'<g class="{kind}">{STYLES[kind].shape(x, y)}</g>'


def key(kind: str) -> Markup:
    """The mark with its words, for a key beside pictures."""
    shape = Markup(mark(kind, 0, 0))
    return Markup('<span class="mark"><svg viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>{}</span>').format(
        shape, STYLES[kind].words
    )
