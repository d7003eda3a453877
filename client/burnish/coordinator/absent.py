"""Keys that the ledger was seen not to have.

DuckDB joins whatever is inserted with ON CONFLICT with the whole table, which costs each batch of a step the more, the
more there is already. What is known to be absent is inserted as it is: 32 scores beside 500,000 in 4 to 5 ms instead of
11 to 12, on two cores.
A ledger has one writer, and what it writes is struck out here; what was not looked for goes by ON CONFLICT.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from burnish.coordinator.ledger import Ledger

# Of a table: what a part of its keys is, such as the model that scores are of.
Place = tuple[Hashable, ...]


class Absent:
    """Absent keys of one ledger, by place."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._keys: dict[Place, set[Hashable]] = {}

    def note(self, place: Place, absent: Iterable[Hashable]) -> None:
        """Remembers what was looked for and is not there; of the last look at a place."""
        self._keys[place] = set(absent)

    def append(
        self,
        place: Place,
        keys: Sequence[Hashable],
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        conflict: str,
    ) -> None:
        """Adds `rows`, the key of each in `keys`, to the table that `place` begins with. `conflict`: what becomes of
        those that may be there."""
        known = self._keys.get(place, set())
        fresh = known.intersection(keys)
        known -= fresh
        pairs = list(zip(keys, rows, strict=True))
        table = str(place[0])
        self._ledger.append(table, columns, [row for key, row in pairs if key in fresh])
        self._ledger.append(table, columns, [row for key, row in pairs if key not in fresh], conflict=conflict)
