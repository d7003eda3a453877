"""The pieces that pictures are put together from. Words are escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def picture(width: float, height: float, title: str, spoken: str, parts: Sequence[str]) -> Markup:
    """An SVG element with a title, empty for none, and words for who cannot see it. `--wide` is its width in pixels."""
    label = f"{title}. {spoken}" if title else spoken
    begin = (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="--wide:{width:g}px" role="img" aria-label="{escape(label)}">'
    )
    head = [text(10, 17, title, "title")] if title else []
    return Markup("\n".join([begin, *head, *parts, "</svg>"]))


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start", turn: float = 0.0) -> str:
    """Words at a place; `turn` in degrees around it."""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{_css(style)} text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_css(style)}/>'


def box(left: float, top: float, width: float, height: float, style: str, more: str = "") -> str:
    """A rectangle; `more`: attributes."""
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"{_css(style)}{more}/>'


def _css(style: str) -> str:
    return f' class="{style}"' if style else ""
