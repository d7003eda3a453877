"""Equal vectors, folded into one and unfolded again."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from burnish_services.embedding.neighbors.arrays import Doubles, Floats, Rows, ranked


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Rows folded by equal content. Group g holds `members[starts[g]:starts[g + 1]]`, in order of row."""

    of_row: Rows  # (n,)
    members: Rows  # (n,)
    starts: Rows  # (groups + 1,)

    @classmethod
    def of(cls, vectors: Floats) -> Groups:
        """Of a float32 matrix."""
        seen: dict[bytes, int] = {}
        of_row = np.empty(len(vectors), np.intp)
        for index, row in enumerate(vectors):
            # Adding zero turns -0.0 into 0.0, which are equal numbers with different bytes.
            of_row[index] = seen.setdefault(blake2b((row + np.float32(0)).data, digest_size=16).digest(), len(seen))
        members = np.argsort(of_row, kind="stable")
        starts = np.searchsorted(of_row[members], np.arange(len(seen) + 1))
        return cls(of_row, members, starts)

    @property
    def sizes(self) -> Rows:
        """Rows in each group."""
        return np.diff(self.starts)

    @property
    def representatives(self) -> Rows:
        """The first row of each group."""
        return self.members[self.starts[:-1]]


def nearest_groups(groups: Groups, query: Rows, candidate: Rows, score: Doubles, k: int) -> tuple[Rows, Doubles]:
    """From neighbours among groups to those of rows: their groups' nearest other groups, each by its lowest row."""
    width = min(k, len(groups.sizes) - 1)
    nearest, scores = _nearest(groups, query, groups.representatives[candidate], score, width)
    return nearest[groups.of_row], scores[groups.of_row]


def expand(
    groups: Groups, query: Rows, candidate: Rows, score: Doubles, k: int, *, with_itself: Doubles
) -> tuple[Rows, Doubles]:
    """From neighbours among groups to neighbours among rows. `with_itself`: the score of equal vectors, by group."""
    num_rows = len(groups.of_row)
    width = min(k, num_rows - 1)
    several = np.flatnonzero(groups.sizes > 1)
    query = np.concatenate([query, several])
    candidate = np.concatenate([candidate, several])
    score = np.concatenate([score, with_itself[several]])
    # Of a group at most k + 1 members can matter: k, and the row itself, which is left out below.
    repeats = np.minimum(groups.sizes[candidate], width + 1)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    row = groups.members[np.repeat(groups.starts[candidate], repeats) + offset]
    nearest, scores = _nearest(groups, np.repeat(query, repeats), row, np.repeat(score, repeats), width + 1)
    indices, found = nearest[groups.of_row], scores[groups.of_row]
    # The row itself, where it stands in its group's list, goes behind all others; the last column is then dropped.
    others = np.argsort(indices == np.arange(num_rows)[:, None], axis=1, kind="stable")[:, :width]
    return np.take_along_axis(indices, others, axis=1), np.take_along_axis(found, others, axis=1)


def _nearest(groups: Groups, query: Rows, row: Rows, score: Doubles, width: int) -> tuple[Rows, Doubles]:
    """The `width` best rows of each group, and their scores."""
    order, rank = ranked(query, score, row)
    order, rank = order[rank < width], rank[rank < width]
    nearest = np.full((len(groups.sizes), width), -1, np.intp)
    scores = np.full(nearest.shape, -np.inf)
    nearest[query[order], rank] = row[order]
    scores[query[order], rank] = score[order]
    return nearest, scores
