"""The first page's pictures as inline SVG: what became of the rows, what it did to the model, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from burnish.coordinator.arms import ArmKind
from burnish.report.short_data import Arm, Flow
from burnish.report.verdict import draws_are_all_rows

_NAMES = {
    ArmKind.BASE: "the model as it came",
    ArmKind.ALL: "trained on all rows",
    ArmKind.RANDOM: "trained on random rows",
    ArmKind.MIXED: "trained on all and trusted rows",
    ArmKind.TRUSTED: "trained on trusted rows alone",
    ArmKind.RUN: "trained on this run's rows",
    ArmKind.ORACLE: "trained on right rows only",
}
SHOWN = tuple(_NAMES)
_HIGH, _TOP = 20, 12  # of a bar, and of the space over the first


def flow_bar(flow: Flow) -> Markup:
    """One bar over all rows, in and added."""
    parts = {
        "kept": (flow.kept, "kept as they were", "teal"),
        "rewritten": (flow.rewritten, "rewritten", "violet"),
        "added": (flow.added, "added", "amber"),
        "aside": (flow.aside, "set aside to judge by", "mist"),
        "dropped": (flow.dropped, "dropped", "grey"),
    }
    return _stacked([(count, words, color) for count, words, color in parts.values()], "rows")


def cost_bar(by_work: Mapping[str, float]) -> Markup:
    """One bar over the time of all steps."""
    colors = ("teal", "violet", "amber", "mist", "grey")
    seconds = [value for value in by_work.values() if value > 0]
    total = sum(seconds) or 1.0
    shares = [(value / total, work) for work, value in by_work.items() if value > 0]
    return _stacked([(share, work, color) for (share, work), color in zip(shares, colors, strict=False)], "share")


def _stacked(parts: Sequence[tuple[float, str, str]], unit: str) -> Markup:
    """Parts side by side, as wide as the page has room for, and a key below with their numbers."""
    total = sum(size for size, _, _ in parts) or 1
    shown = [(size, words, color) for size, words, color in parts if size]
    numbers = [f"{size:.0%}" if unit == "share" else f"{size:,}" for size, _, _ in shown]
    spoken = ", ".join(f"{number} {words}" for number, (_, words, _) in zip(numbers, shown, strict=True))
    drawn = [
        '<svg class="stacked" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(spoken)}">'
    ]
    x = 0.0
    for size, _, color in shown:
        width = size / total * 1000
        drawn.append(f'<rect x="{x:.1f}" y="0" width="{max(width - 2, 1):.1f}" height="10" fill="var(--{color})"/>')
        x += width
    drawn.append("</svg>")
    keys = [
        Markup('<span><i style="background:var(--{})"></i>{} {}</span>').format(color, number, words)
        for number, (_, words, color) in zip(numbers, shown, strict=True)
    ]
    return Markup('{}<p class="key">{}</p>').format(Markup("\n".join(drawn)), Markup(" ").join(keys))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a picture of losses, in its own units: names beside the bars, or above them."""

    width: int
    left: int
    right: int
    row: int
    above: int = 0  # a name's height over its bar; 0: beside it
    style: str = "wide"


WIDE, NARROW = Layout(1060, 262, 190, 38), Layout(440, 6, 150, 56, 24, "narrow")


def loss_bars(arms: Sequence[Arm], layout: Layout = WIDE) -> Markup | None:
    """How much lower than the base model's each arm's loss is, in percent of that; the bars begin at the base model, so
    that their lengths compare. None without a base model. What several models reached is a line from best to worst."""
    by_kind = {arm.kind: arm for arm in arms if arm.losses}
    base = by_kind.get(ArmKind.BASE)
    if base is None or not base.losses[0]:
        return None
    shown = [by_kind[kind] for kind in SHOWN if kind in by_kind]
    falls = {arm.kind: [1 - loss / base.losses[0] for loss in arm.losses] for arm in shown}
    every = [0.0, *(value for values in falls.values() for value in values)]
    low, high = min(every), max(max(every), min(every) + 1e-9)
    scale = (layout.width - layout.left - layout.right) / (high - low)

    def x_of(value: float) -> float:
        return layout.left + (value - low) * scale

    end = _TOP + layout.row * len(shown)
    spoken = "; ".join(f"{_NAMES[arm.kind]}: loss {arm.mean or 0:.3f}" for arm in shown)
    drawn = [
        f'<svg class="losses {layout.style}" viewBox="0 0 {layout.width} {end + 26}" role="img"'
        f' aria-label="{escape(spoken)}">',
    ]
    for place, arm in enumerate(shown):
        name = _NAMES[arm.kind]
        if arm.kind is ArmKind.RANDOM:
            name = "all rows, other orders" if draws_are_all_rows(arms) else name
            name += f", {len(arm.losses)} times" if len(arm.losses) > 1 else ""
        drawn += _bar(arm, name, sorted(falls[arm.kind]), _TOP + place * layout.row, x_of, layout)
    drawn += [
        f'<text x="{max(x_of(0), 34):.1f}" y="{end + 10}" class="tick" text-anchor="middle">no change</text>',
        f'<text x="{layout.width - 4}" y="{end + 10}" class="tick" text-anchor="end">longer is better →</text>',
        "</svg>",
    ]
    return Markup("\n".join(drawn))


def _bar(
    arm: Arm, name: str, falls: Sequence[float], y: float, x_of: Callable[[float], float], layout: Layout
) -> list[str]:
    """One arm: its name, its bar from the base model on, the range of its models, its loss."""
    mean = sum(falls) / len(falls)
    is_base = arm.kind is ArmKind.BASE
    style = {ArmKind.RUN: "run", ArmKind.ORACLE: "oracle"}.get(arm.kind, "peer") + (" worse" if mean < 0 else "")
    at, anchor = (layout.left, "start") if layout.above else (layout.left - 14, "end")
    drawn = [f'<text x="{at}" y="{y + 15}" class="name {style}" text-anchor="{anchor}">{name}</text>']
    y += layout.above
    top, bottom = (y - 4, y + _HIGH + 4) if layout.above else (y - _TOP, y + layout.row - _TOP)
    drawn.append(f'<line x1="{x_of(0):.1f}" y1="{top}" x2="{x_of(0):.1f}" y2="{bottom}" class="axis"/>')
    left, right = sorted((x_of(0), x_of(mean)))
    if not is_base:
        drawn.append(
            f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 1):.1f}" height="{_HIGH}" class="{style}"/>'
        )
    first, last = x_of(falls[0]), x_of(falls[-1])
    if len(falls) > 1:
        middle = y + _HIGH / 2
        drawn.append(
            f'<path d="M{first:.1f} {middle}H{last:.1f}M{first:.1f} {middle - 5}v10M{last:.1f} {middle - 5}v10"'
            ' class="range"/>'
        )
    change = "" if is_base else f" ({abs(mean):.1%} {'lower' if mean >= 0 else 'higher'})"
    drawn.append(f'<text x="{max(right, last) + 9:.1f}" y="{y + 15}" class="value">{arm.mean:.3f}{change}</text>')
    return drawn
