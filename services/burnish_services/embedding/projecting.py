"""Makes the picture of a set as it was asked for: between the request and the mathematics."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.projection import Plane, principal_plane
from burnish_services.embedding.projection_umap import umap_plane
from burnish_services.runtime.errors import InvalidRequest

MOST_BY_UMAP = 100_000  # samples; minutes of one core, which nothing else can search on meanwhile


class Method(StrEnum):
    """How vectors become points of a plane; see burnish.api.embedding.v1.ProjectionMethod."""

    PCA = "pca"
    UMAP = "umap"


def check_size(method: Method, num_samples: int) -> None:
    """Raises InvalidRequest where there are too many for the method, before any work is done."""
    if method is Method.UMAP and num_samples > MOST_BY_UMAP:
        raise InvalidRequest(
            "TOO_MANY_SAMPLES",
            f"sample_ids names {num_samples} samples (none: all); expected at most {MOST_BY_UMAP} for method UMAP: "
            "name fewer, or ask for PCA",
            field="sample_ids",
        )


def project(method: Method, vectors: NDArray[np.float32], check: Callable[[], None]) -> Plane:
    """Where `vectors` (float32, shape (n, d), finite) lie. `check` may raise to give up. Raises PreconditionFailed
    where the method needs a package that is missing."""
    place = umap_plane if method is Method.UMAP else principal_plane
    return place(vectors, check=check)
