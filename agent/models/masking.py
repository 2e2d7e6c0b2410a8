"""Observations that come with an action mask, and logits that obey it."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Dict

#: The members of an observation that carries its mask.
OBSERVATIONS = "observations"
ACTION_MASK = "action_mask"

#: Of an action that is not allowed. Finite, so that entropies and divergences are no NaN, and yet
#: low enough for its probability to be exactly 0 in float32.
FORBIDDEN_LOGIT = -1e9


def is_masked(space: Space[Any]) -> bool:
    """Whether observations of this space carry an action mask."""
    return isinstance(space, Dict) and set(space.spaces) == {OBSERVATIONS, ACTION_MASK}


def unmasked_space(space: Space[Any]) -> Space[Any]:
    """The space of the observations proper."""
    return space[OBSERVATIONS] if is_masked(space) else space  # type: ignore[index]


def split(observation: Any) -> tuple[Any, torch.Tensor | None]:
    """A batch of observations, and its mask if it has one."""
    if isinstance(observation, dict) and ACTION_MASK in observation:
        return observation[OBSERVATIONS], observation[ACTION_MASK]
    return observation, None


def forbid(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``logits`` with ``FORBIDDEN_LOGIT`` wherever ``mask`` is zero or False; same shape."""
    if mask is None:
        return logits
    return logits.masked_fill(mask == 0, FORBIDDEN_LOGIT)
