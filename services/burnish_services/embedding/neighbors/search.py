"""The search as a whole: vectors in, neighbours out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from burnish_services.embedding.neighbors.arrays import Doubles, Floats, Rows, all_finite
from burnish_services.embedding.neighbors.cells import EXACT, Search, probed_pairs
from burnish_services.embedding.neighbors.exact import Propose, exact_pairs, propose_by_tiles
from burnish_services.embedding.neighbors.groups import Groups, expand, nearest_groups
from burnish_services.embedding.neighbors.scores import SCORES, Metric

EXACT_UP_TO = 100_000  # different vectors: a minute or two on two cores, beyond which time grows with the square
DEFAULT_RECALL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class NearestNeighbors:
    """For each of n rows its w nearest other rows, nearest first, ties by the lower row; w is k, or as many as there
    are: n - 1, or one less than the distinct vectors where duplicates are left out."""

    indices: Rows  # (n, w)
    values: Doubles  # the same shape: cosines in [-1, 1], or distances >= 0
    search: Search = EXACT

    @property
    def means(self) -> Doubles:
        """Mean over each row's neighbours, shape (n,); 0 where there are none."""
        width = self.values.shape[1]
        return self.values.sum(axis=1) / max(width, 1)


def nearest_neighbors(
    vectors: Floats,
    k: int,
    *,
    metric: Metric = Metric.COSINE,
    distinct: bool = False,
    recall: float | None = None,
    propose: Propose = propose_by_tiles,
    check: Callable[[], None] = lambda: None,
) -> NearestNeighbors:
    """The k >= 1 nearest neighbours of every row of `vectors` (float32, shape (n, d), finite), itself excluded.

    Equal rows have cosine 1 and distance 0; a row of zeros has cosine 0 with everything. With `distinct`, exact
    duplicates are left out: copies of the row itself are no neighbours, and of other rows' copies the lowest alone is.
    `recall` in (0, 1] is the share of true neighbours that must be found: 1 is an exact search; None is that up to
    EXACT_UP_TO different vectors, and DEFAULT_RECALL beyond. All values are exact in any case, and copies are always
    found. What an exact search finds depends on nothing but the vectors and their order; an approximate one may put a
    vector that lies between two cells into the other one where products are rounded otherwise. Needs about the memory
    of `vectors` once more and a few dozen MiB; an approximate search a few hundred bytes a row besides. `propose` is
    what looks at all pairs in an exact search. `check` is called between tiles and may raise to give up. Raises
    ValueError for other input.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"expected a float32 matrix, got {vectors.dtype} of shape {vectors.shape}")
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if recall is not None and not 0 < recall <= 1:
        raise ValueError(f"recall is {recall}, expected it in (0, 1]")
    if not all_finite(vectors):
        raise ValueError("expected finite vectors, found NaN or infinity")
    if len(vectors) == 0:
        return NearestNeighbors(np.empty((0, 0), np.intp), np.empty((0, 0)))
    groups = Groups.of(vectors)
    scores = SCORES[metric](vectors, groups.representatives)
    if recall is None:
        recall = 1.0 if len(scores) <= EXACT_UP_TO else DEFAULT_RECALL
    if recall == 1 or k >= len(scores):
        pairs, search = exact_pairs(scores, k, propose, check), EXACT
    else:
        pairs, search = probed_pairs(scores, k, recall, check)
    if distinct:
        indices, found = nearest_groups(groups, *pairs, k)
    else:
        indices, found = expand(groups, *pairs, k, with_itself=scores.with_itself())
    return NearestNeighbors(indices, scores.values_of(found), search)
