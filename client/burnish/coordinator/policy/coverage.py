"""What a selection means for every row: kept, or left out and for whom. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.verdict import Action, Verdict


@dataclass(frozen=True, slots=True)
class Picked:
    """A sample's place in the order of picking, from 1, and what it added to the objective."""

    rank: int
    gain: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """The selected sample, by hash, that stands for one that is not, and their cosine."""

    sample_hash: str
    cosine: float


def verdicts(
    rows: Sequence[DataRow], picked: Mapping[str, Picked], nearest: Mapping[str, Nearest], unread: Mapping[str, str]
) -> list[Verdict]:
    """One for each row, in order. All mappings are by sample hash; `unread` says why. Of rows with the same sample the
    first is meant, the others are its copies. Raises ValueError where nothing is known of a sample."""
    first: dict[str, str] = {}  # row id by sample
    for row in rows:
        first.setdefault(row.sample_hash, row.row_id)
    return [_verdict(row, first, picked, nearest, unread) for row in rows]


@dataclass(frozen=True, slots=True)
class Held:
    """Whether a row goes on to the next round where the set's size is held, and why."""

    row_id: str
    kept: bool
    reason: str


def hold(
    rows: Sequence[DataRow],
    size: int,
    ranking: Sequence[str],
    nearest: Mapping[str, Nearest],
    unread: Mapping[str, str],
) -> list[Held]:
    """One for each row, in order: `size` of them are kept. First a row of each sample of `ranking`, in order of
    picking; where that leaves room, which it does only where there are no other samples, further copies, and then what
    could not be read."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.sample_hash, row.row_id)
    place = {sample: rank for rank, sample in enumerate(ranking, start=1)}
    picked = {first[sample] for sample in ranking[:size]}
    copies = [row.row_id for row in rows if row.sample_hash in place and row.row_id != first[row.sample_hash]]
    others = [row.row_id for row in rows if row.sample_hash in unread]
    kept = picked | set([*copies, *others][: size - len(picked)])
    found = []
    for row in rows:
        if row.row_id in kept:
            reason = f"Kept as number {place[row.sample_hash]} of {size}." if row.sample_hash in place else "Kept."
        elif row.sample_hash in nearest:
            near = nearest[row.sample_hash]
            by = first[near.sample_hash]
            reason = f"Left out to hold {size} rows: row {by} is the nearest to it (cosine {near.cosine:.3f})."
        elif row.sample_hash in unread:
            reason = f"Left out to hold {size} rows: it could not be read ({unread[row.sample_hash]})."
        else:
            reason = f"Left out to hold {size} rows: the same as row {first[row.sample_hash]}."
        found.append(Held(row.row_id, row.row_id in kept, reason))
    return found


def _verdict(
    row: DataRow,
    first: Mapping[str, str],
    picked: Mapping[str, Picked],
    nearest: Mapping[str, Nearest],
    unread: Mapping[str, str],
) -> Verdict:
    sample, stands = row.sample_hash, first[row.sample_hash]
    if sample in picked and stands == row.row_id:
        place = picked[sample]
        reason = f"Picked as number {place.rank}; it added {place.gain:.4g} to the objective."
        return Verdict(row.row_id, (Action.KEEP,), {"rank": float(place.rank), "gain": place.gain}, (reason,))
    if sample in picked:
        reason = f"The same as row {stands}, which is in the core set."
        return Verdict(row.row_id, (Action.DROP,), {"cosine": 1.0}, (reason,), (stands,))
    if sample in nearest:
        near = nearest[sample]
        by = first[near.sample_hash]
        reason = f"Row {by}, which is in the core set, is the nearest to it (cosine {near.cosine:.3f})."
        return Verdict(row.row_id, (Action.DROP,), {"cosine": near.cosine}, (reason,), (by,))
    if sample in unread:
        return Verdict(row.row_id, (Action.UNREAD,), {}, (f"It could not be selected: {unread[sample]}",))
    raise ValueError(f"nothing is known of sample {sample}, row {row.row_id}")
