"""Nearest neighbours among vectors, exactly or approximately; no n × n matrix is ever held. Pure numpy and scipy, no
store, no server.

Equal vectors are folded into groups (`groups`), for exact duplicates are common in instruction data and must come out
at exactly 1. Products in float32 propose, per group, a few more candidates than are wanted (`best`): all pairs, tile by
tile (`exact`), or only those of near cells of an inverted file (`cells`). The candidates are then scored again in
float64, by a sum whose order does not depend on where a vector stands (`scores`), so that equal vectors tie exactly and
ties go to the lower row.
"""

from burnish_services.embedding.neighbors.cells import Search
from burnish_services.embedding.neighbors.exact import Propose, propose_by_tiles
from burnish_services.embedding.neighbors.scores import Metric
from burnish_services.embedding.neighbors.search import NearestNeighbors, nearest_neighbors

__all__ = ["Metric", "NearestNeighbors", "Propose", "Search", "nearest_neighbors", "propose_by_tiles"]
