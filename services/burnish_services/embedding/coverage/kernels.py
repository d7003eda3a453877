"""Compiled loops over active features; the only place that knows numba. They check nothing: their callers do.

A row is `ids[starts[row]:starts[row + 1]]`, and the feature of its entry at column c is `offsets[c]` plus that entry.
Packed rows have an offset per layer, ragged ones zeros only, so that one loop serves both.

Sums run in the order of the columns, one term after the other. Equal rows therefore tie exactly; and as rounding
keeps order, a gain computed later is never above one computed earlier, which is what lazy greedy rests on.

All loops release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Doubles, Floats, Ids, Rows

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # numba looks for a cache directory when it decorates, and raises where it can write none: a read-only
        # installation without a home. Compiling anew in each process, a few seconds, beats not starting.
        return njit(nogil=True)(function)


class CoverageState(NamedTuple):
    """An objective over n rows and D features, with what has been selected so far."""

    ids: Ids
    starts: Rows  # (n + 1,)
    offsets: NDArray[np.uint64]  # (columns,)
    weights: Doubles  # (D,)
    steps: Doubles  # (n + 1,): the increment's rise from c to c + 1, never rising with c
    modular: Doubles  # (n,): what a row adds whatever else is selected
    counts: NDArray[np.int64]  # (D,): selected rows that have the feature
    # (D,): weights * steps[counts], kept so that a gain is one lookup per id. float32, for the table of a few hundred
    # thousand features then fits a core's cache, which makes everything twice as fast.
    marginals: Floats
    selected: NDArray[np.bool_]  # (n,)


@_compiled
def first_disorder(ids: Ids, starts: Rows, offsets: NDArray[np.uint64], width: int) -> int:
    """The first row with an id of `width` or more, or with features that do not ascend strictly; -1 without one."""
    for row in range(len(starts) - 1):
        start = starts[row]
        for column in range(starts[row + 1] - start):
            if ids[start + column] >= width:
                return row
            if column and offsets[column] + ids[start + column] <= offsets[column - 1] + ids[start + column - 1]:
                return row
    return -1


@_compiled
def count_features(ids: Ids, starts: Rows, offsets: NDArray[np.uint64], frequencies: Rows) -> None:
    """Adds to `frequencies`, shape (D,), the number of rows that have each feature."""
    for row in range(len(starts) - 1):
        start = starts[row]
        for column in range(starts[row + 1] - start):
            frequencies[offsets[column] + ids[start + column]] += 1


@_compiled
def _gain(state: CoverageState, row: int) -> float:
    start = state.starts[row]
    total = 0.0
    for column in range(state.starts[row + 1] - start):
        total += state.marginals[state.offsets[column] + state.ids[start + column]]
    return total + state.modular[row]


@_compiled
def gains(state: CoverageState, rows: Rows, out: Doubles) -> None:
    """Writes the marginal gain of each of `rows` to `out`."""
    for place in range(len(rows)):
        out[place] = _gain(state, rows[place])


@_compiled
def add(state: CoverageState, row: int) -> None:
    """Selects a row that is not selected yet."""
    state.selected[row] = True
    start = state.starts[row]
    for column in range(state.starts[row + 1] - start):
        feature = state.offsets[column] + state.ids[start + column]
        count = state.counts[feature] + 1
        state.counts[feature] = count
        state.marginals[feature] = state.weights[feature] * state.steps[count]


@_compiled
def _sink(bounds: Doubles, rows: Rows, size: int) -> None:
    """Lets the heap's root down to where it belongs; larger bounds are above, among equals lower rows."""
    bound, row = bounds[0], rows[0]
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        other = child + 1
        if other < size and (
            bounds[other] > bounds[child] or (bounds[other] == bounds[child] and rows[other] < rows[child])
        ):
            child = other
        if bounds[child] < bound or (bounds[child] == bound and rows[child] > row):
            break
        bounds[hole], rows[hole] = bounds[child], rows[child]
        hole = child
    bounds[hole], rows[hole] = bound, row


@_compiled
def pick_lazily(
    state: CoverageState,
    bounds: Doubles,
    rows: Rows,
    size: int,
    of_row: Rows,
    room: Rows,
    evaluations: int,
    picked: Rows,
    picked_gains: Doubles,
) -> tuple[int, int]:
    """Goes on with lazy greedy until `picked` is full or `evaluations` gains are computed.

    The heap is the first `size` of `bounds` and `rows`, each bound a gain of its row at that or an earlier moment;
    `room[of_row[row]]` more rows of a row's group may be picked, in all at least as many as `picked` holds. Returns
    the heap's size and the number of picks.
    """
    done = 0
    while done < len(picked) and evaluations > 0:
        row = rows[0]
        is_open = room[of_row[row]] > 0
        if is_open:
            evaluations -= 1
            bounds[0] = _gain(state, row)
            _sink(bounds, rows, size)
            if rows[0] != row:
                continue
            # Still on top with what it is worth now, while all others are worth at most their bounds.
            add(state, row)
            room[of_row[row]] -= 1
            picked[done] = row
            picked_gains[done] = bounds[0]
            done += 1
        size -= 1
        bounds[0], rows[0] = bounds[size], rows[size]
        _sink(bounds, rows, size)
    return size, done


@_compiled
def pick_from_samples(
    state: CoverageState,
    remaining: Rows,
    size: int,
    draws: Doubles,
    of_row: Rows,
    room: Rows,
    picked: Rows,
    picked_gains: Doubles,
) -> int:
    """Goes on with stochastic greedy until `picked` is full.

    The candidates are the first `size` of `remaining`, all in groups with room, which suffices for `picked`. `draws`,
    uniform in [0, 1), shape (picks, sample), say which are looked at. Returns the number of candidates left.
    """
    for done in range(len(picked)):
        num = min(draws.shape[1], size)
        if num < size:
            for place in range(num):
                drawn = place + int(draws[done, place] * (size - place))
                remaining[place], remaining[drawn] = remaining[drawn], remaining[place]
        best, best_gain = 0, -1.0
        for place in range(num):
            gain = _gain(state, remaining[place])
            if gain > best_gain or (gain == best_gain and remaining[place] < remaining[best]):
                best, best_gain = place, gain
        row = remaining[best]
        add(state, row)
        picked[done] = row
        picked_gains[done] = best_gain
        size -= 1
        remaining[best] = remaining[size]
        group = of_row[row]
        room[group] -= 1
        if room[group] == 0:
            kept = 0
            for place in range(size):
                if of_row[remaining[place]] != group:
                    remaining[kept] = remaining[place]
                    kept += 1
            size = kept
    return size
