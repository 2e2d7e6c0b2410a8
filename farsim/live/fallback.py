"""What acts when the policy's server does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces as gym_spaces

from farsim import spaces
from farsim.errors import InvalidArgument
from farsim.live.interface import Role

#: "last": the action before, or a zero one at the start of an episode. "zero": zeros, or what the
#: space has that is nearest to them. Where a mask forbids that, the first action allowed (in a
#: Discrete or MultiDiscrete action space; masks of spaces inside others are not looked at). A
#: function is called with the observation, or with the agent's name and its observation if there
#: are several agents, and returns an action.
Fallback: TypeAlias = Literal["last", "zero"] | Callable[..., Any]


def check(fallback: object) -> None:
    """Whether this is a fallback.

    Raises:
        InvalidArgument: it is not; says what is one.
    """
    if fallback is not None and fallback not in ("last", "zero") and not callable(fallback):
        raise InvalidArgument(
            f"a fallback is 'last', 'zero' or a function of the observation, not {fallback!r}",
            "fallback",
        )


def act(
    fallback: Fallback,
    role: Role,
    last: Any,
    masks: Sequence[np.ndarray[Any, Any]],
    arguments: tuple[Any, ...],
) -> Any:
    """The fallback's action.

    Args:
        fallback: which.
        role: the agent's.
        last: the action before; None if there is none.
        masks: as ``Role.masks`` gives them; empty: all is allowed.
        arguments: what a function is called with.
    """
    if callable(fallback):
        return fallback(*arguments)
    action = last if fallback == "last" and last is not None else zero(role)
    return _allowed(role.action_space, action, masks) if masks else action


def zero(role: Role) -> Any:
    """The member of the action space that is nearest to nothing."""
    space: Any = role.action_space
    (action,) = spaces.unbatch(space, spaces.zeros(space, 1), 1)
    kind = type(space)
    if issubclass(kind, gym_spaces.Discrete):
        return space.dtype.type(max(int(space.start), min(0, int(space.start + space.n - 1))))
    if issubclass(kind, gym_spaces.Box):
        return np.clip(action, space.low, space.high)
    if issubclass(kind, gym_spaces.MultiDiscrete):
        return np.clip(action, space.start, space.start + space.nvec - 1).astype(space.dtype)
    return action


def _allowed(space: Any, action: Any, masks: Sequence[np.ndarray[Any, Any]]) -> Any:
    kind = type(space)
    if issubclass(kind, gym_spaces.Discrete):
        mask = masks[0]
        return action if mask[int(action - space.start)] else space.start + int(mask.argmax())
    if issubclass(kind, gym_spaces.MultiDiscrete):
        parts = np.split(masks[0], np.cumsum(space.nvec.ravel())[:-1])
        start, chosen = space.start.ravel(), np.array(action).ravel()
        for index, part in enumerate(parts):
            if part.any() and not part[chosen[index] - start[index]]:
                chosen[index] = start[index] + part.argmax()
        return chosen.reshape(space.shape).astype(space.dtype)
    return action
