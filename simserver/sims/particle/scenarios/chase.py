"""What the scenarios with predators and prey have in common."""

from __future__ import annotations

import numpy as np

from simserver.simulator import FloatArray

#: Landmarks lie within this distance of the axes.
LANDMARK_RANGE = 0.9


def out_of_bounds(positions: FloatArray) -> FloatArray:
    """The penalty for going off, by coordinate: float64 of the same shape.

    0 up to 0.9, from there on to 1 at 1.0, then exp(2 x - 2), at most 10.
    """
    x = np.abs(positions)
    outside = x >= LANDMARK_RANGE
    if not outside.any():
        return np.zeros_like(x)
    # At 3 the limit is long passed; further out the exponential would overflow.
    grown = np.minimum(np.exp(2 * np.minimum(x, 3) - 2), 10)
    return np.where(x < 1.0, (x - 0.9) * 10, grown) * outside
