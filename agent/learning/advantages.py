"""Generalised advantage estimation over all episodes of a batch.

J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-Dimensional Continuous Control Using
Generalized Advantage Estimation", ICLR 2016, https://arxiv.org/abs/1506.02438.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

#: The least deviation that advantages are divided by, RLlib's.
_LEAST_DEVIATION = 1e-4


def value_targets(
    values: Floats,
    rewards: Floats,
    terminated: Flags,
    truncated: Flags,
    gamma: float,
    lambda_: float,
) -> Floats:
    """What values should be, to the last bit as RLlib's ``compute_value_targets`` has it.

    All arguments are [rows], episode after episode, each with one row more than it has steps for
    the value that goes on from there.

    Args:
        values: what the network says.
        rewards: of each step.
        terminated: nothing comes after the step.
        truncated: the next row is the last one of the episode.
        gamma: discount of a step.
        lambda_: weight of a step further ahead.
    """
    # In float64 as there, where a mask is a number and not an array of float32.
    goes_on = 1.0 - terminated
    carried = gamma * lambda_ * (goes_on * (1.0 - truncated))
    after = np.append(values[1:], 0.0)
    residuals = rewards + gamma * goes_on * after - values
    # Every advantage needs the next one. Python's floats are a tenth of the time of NumPy's here.
    advantages = []
    running = 0.0
    for residual, factor in zip(residuals[::-1].tolist(), carried[::-1].tolist(), strict=True):
        running = residual + factor * running
        advantages.append(running)
    return np.array(advantages[::-1], np.float32) + values


def standardized(advantages: Floats) -> Floats:
    """Advantages with mean 0 and deviation 1."""
    deviation = max(_LEAST_DEVIATION, advantages.std())
    return (advantages - advantages.mean()) / deviation
