"""UMAP's picture of a set (McInnes et al. 2018): who is near whom. The door to umap-learn, which is optional and
takes seconds to import: it is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.projection import Plane
from burnish_services.runtime.errors import PreconditionFailed

Floats = NDArray[np.float32]
_NEIGHBORS = 15
_FEWEST = 4  # UMAP begins with as many eigenvectors as axes and one; of a smaller graph they cannot be had
_SEED = 0


def umap_plane(vectors: Floats, *, check: Callable[[], None] = lambda: None) -> Plane:
    """Places `vectors` (float32, shape (n, d), finite) on a plane so that each stays near its 15 nearest by cosine.

    Seeded and on one thread, so that the same vectors give the same points, around 0. Fewer than 4 vectors are all
    at 0, as is one that is opposite to all of its neighbours. The axes show no share of the variance. `check` is
    called before the work begins, which cannot be given up. Raises PreconditionFailed where umap-learn is not
    installed.
    """
    reducer = _reducer()
    points = np.zeros((len(vectors), 2), np.float32)
    if len(vectors) >= _FEWEST:
        check()
        neighbors = min(_NEIGHBORS, len(vectors) - 1)
        found = reducer(
            n_neighbors=neighbors, n_components=2, metric="cosine", random_state=_SEED, n_jobs=1
        ).fit_transform(vectors)
        placed = np.isfinite(found).all(axis=1)
        points[placed] = found[placed] - found[placed].mean(axis=0)
    return Plane(points, (0.0, 0.0))


def _reducer() -> Any:
    try:
        from umap import UMAP
    except ImportError as error:
        raise PreconditionFailed(
            "UMAP_NOT_INSTALLED",
            f"this server cannot place samples by UMAP ({error}); pip install umap-learn there, or ask for PCA",
        ) from error
    return UMAP
