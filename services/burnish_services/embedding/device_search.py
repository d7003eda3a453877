"""The products of an exact neighbour search on a GPU: the one door to torch outside engine/ and training/."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from burnish_services.embedding.neighbors.best import Best
from burnish_services.embedding.neighbors.exact import Propose, propose_by_tiles
from burnish_services.embedding.neighbors.scores import Distances, Scores
from burnish_services.runtime.role import RoleUnavailable

log = logging.getLogger(__name__)

_TILE_BYTES = 1 << 30  # of scores at a time, on the device


def proposer(device: str) -> Propose:
    """What looks at all pairs: `device` "cuda" is a GPU, "auto" a GPU where there is one, else numpy. A GPU without the
    memory for the vectors leaves the work to numpy. Raises RoleUnavailable for "cuda" where there is none."""
    if torch.cuda.is_available():
        return _on_gpu
    if device == "cuda":
        raise RoleUnavailable(
            "BURNISH_EMBEDDING_SEARCH_DEVICE is cuda, but torch finds no GPU here; set it to auto or cpu"
        )
    return propose_by_tiles


def _on_gpu(scores: Scores, width: int, check: Callable[[], None]) -> Best:
    try:
        return propose_on(torch.device("cuda"), scores, width, check)
    except torch.OutOfMemoryError:
        log.warning("the GPU has no room for %d vectors; searching on the CPU", len(scores))
    finally:
        torch.cuda.empty_cache()  # the server lives on, and engines want that memory
    return propose_by_tiles(scores, width, check)


def propose_on(
    device: torch.device, scores: Scores, width: int, check: Callable[[], None], *, tile_bytes: int = _TILE_BYTES
) -> Best:
    """See Propose. Rows of at most `tile_bytes` of scores at a time are compared with all. Products must be of full
    float32 precision, for which torch's default on CUDA suffices: TF32 is off for matrix products."""
    with torch.inference_mode():
        matrix = torch.from_numpy(scores.matrix).to(device)
        squares = torch.from_numpy(scores.squares(slice(None))).to(device) if isinstance(scores, Distances) else None
        best = Best(len(scores), width)
        step = max(1, tile_bytes // (4 * len(scores)))
        for start in range(0, len(scores), step):
            check()
            rows = slice(start, min(start + step, len(scores)))
            tile = matrix[rows] @ matrix.T
            if squares is not None:
                tile.mul_(2).sub_(squares[rows, None]).sub_(squares)
            inside = torch.arange(rows.start, rows.stop, device=device)
            tile[inside - rows.start, inside] = -torch.inf
            found = tile.topk(width, dim=1, sorted=False)
            best.scores[rows] = found.values.cpu().numpy()
            best.columns[rows] = found.indices.cpu().numpy().astype(np.intp)
    return best
