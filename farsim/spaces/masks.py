"""Action masks: which values of the discrete leaves of an action space are allowed now."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim.spaces.kinds import leaves


def mask_widths(space: Space[Any]) -> list[int]:
    """How many flags each row has in each mask of an action space.

    There is one mask for every Discrete leaf, with n flags a row, and for every MultiDiscrete
    leaf, with as many as its n add up to; depth first.
    """
    widths = []
    for _, leaf in leaves(space):
        if isinstance(leaf, spaces.Discrete):
            widths.append(int(leaf.n))
        elif isinstance(leaf, spaces.MultiDiscrete):
            widths.append(int(leaf.nvec.sum(dtype=np.int64)))
    return widths


def full_masks(space: Space[Any], rows: int) -> tuple[NDArray[np.bool_], ...]:
    """The masks of ``rows`` rows that allow everything: bool arrays [rows, width]."""
    return tuple(np.ones((rows, width), np.bool_) for width in mask_widths(space))
