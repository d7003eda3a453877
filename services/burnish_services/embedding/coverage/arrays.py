"""The arrays that the package passes around."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Ids = NDArray[np.uint16] | NDArray[np.uint32]
"""Active features as they are stored: neurons of a layer, or features."""

MOST_NEURONS = 1 << 16  # of a layer that a uint16 can number
MOST_FEATURES = 1 << 32  # that a uint32 can number

Check = Callable[[], None]
"""Called every so often by what takes long; may raise to give up."""
