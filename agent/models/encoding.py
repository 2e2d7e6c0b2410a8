"""From a simulator's spaces to those that RLlib's networks take, and actions back."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from agent.models import masking
from farsim.errors import FarsimError

FloatRows = NDArray[np.float32]

#: A bounded number whose range is no wider than this is scaled to -1..1.
WIDEST_SCALED = 1e6


class UnsupportedSpace(FarsimError, ValueError):
    """A space that no network here can observe or act in."""


class Encoding:
    """How batches of observations and actions are translated.

    Observations that are a vector or an image of floats stay as they are, and images of whole
    numbers, as bytes are, become float32 from -1 to 1. All others become one float32 vector:
    numbers with bounds scaled to -1..1, choices one-hot, members of Dict and Tuple side by side in
    the space's order. Actions stay, except that RLlib's networks count choices
    from 0 whatever ``Discrete.start`` says.

    Args:
        observation_space: of one environment; one that carries an action mask keeps it.
        action_space: of one environment.

    Attributes:
        observation_space: what the network sees.
        action_space: what the network chooses from.
        encoded_shape: of one observation, without the mask, where it is translated.

    Raises:
        UnsupportedSpace: names what cannot be learned from.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self._observed = masking.unmasked_space(observation_space)
        self._acted = action_space
        self._masked = masking.is_masked(observation_space)
        self.encodes_observations = not _is_plain(self._observed)
        plain = self._observed
        self.encoded_shape: tuple[int, ...] = ()
        self._is_bytes = _is_bytes(self._observed)
        if self.encodes_observations:
            is_image = _is_image(self._observed)
            width = _width(self._observed)
            self.encoded_shape = self._observed.shape if is_image else (width,)  # type: ignore[assignment]
            plain = spaces.Box(-np.inf, np.inf, self.encoded_shape, np.float32)
        self.observation_space: Space[Any] = plain
        if self._masked:
            mask_space = observation_space[masking.ACTION_MASK]  # type: ignore[index]
            self.observation_space = spaces.Dict(
                {masking.OBSERVATIONS: plain, masking.ACTION_MASK: mask_space}
            )
        self.action_space = _from_zero(action_space)
        self.shifts_actions = self.action_space != action_space

    def encode(self, observation: Any) -> Any:
        """A batch of the simulator's observations as one of ``observation_space``."""
        if not self.encodes_observations:
            return observation
        if self._masked:
            return {
                masking.OBSERVATIONS: self._encoded(observation[masking.OBSERVATIONS]),
                masking.ACTION_MASK: observation[masking.ACTION_MASK],
            }
        return self._encoded(observation)

    def _encoded(self, batch: Any) -> FloatRows:
        if self._is_bytes:  # The same as below, several times faster.
            return np.asarray(batch, np.float32) / np.float32(127.5) - np.float32(1)
        rows = _vectors(self._observed, batch)
        return rows.reshape(len(rows), *self.encoded_shape)

    def decode(self, actions: Any) -> Any:
        """A batch of actions of ``action_space`` as one of the simulator's actions."""
        return _shift(self._acted, actions) if self.shifts_actions else actions


def _is_plain(space: Space[Any]) -> bool:
    """Whether RLlib's default encoders take it as it is."""
    if not isinstance(space, spaces.Box):
        return False
    if len(space.shape) == 3:
        return not _is_image(space)
    return len(space.shape) == 1 and space.dtype == np.float32


def _is_image(space: Space[Any]) -> bool:
    """Whether it is an image of whole numbers, which convolutions do not take."""
    is_whole = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "biu"
    return is_whole and space.shape is not None and len(space.shape) == 3


def _is_bytes(space: Space[Any]) -> bool:
    """Whether it is an image of bytes, from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


@singledispatch
def _width(space: Space[Any]) -> int:
    """How many numbers of the vector an observation takes."""
    raise UnsupportedSpace(
        f"a network cannot observe {type(space).__name__} spaces, as in {space}: have the "
        "simulator give numbers instead"
    )


@_width.register
def _(space: spaces.Box) -> int:
    return int(np.prod(space.shape))


@_width.register(spaces.Discrete)
def _(space: spaces.Discrete[Any]) -> int:
    return int(space.n)


@_width.register
def _(space: spaces.MultiDiscrete) -> int:
    return int(space.nvec.sum())


@_width.register
def _(space: spaces.MultiBinary) -> int:
    return int(np.prod(space.shape))


@_width.register
def _(space: spaces.Tuple) -> int:
    return sum(_width(member) for member in space.spaces)


@_width.register
def _(space: spaces.Dict) -> int:
    return sum(_width(member) for member in space.spaces.values())


@singledispatch
def _vectors(space: Space[Any], batch: Any) -> FloatRows:
    """A batch [n, ...] of observations as float32 [n, width]."""
    raise TypeError(f"no vectors for {space}")


@_vectors.register
def _(space: spaces.Box, batch: Any) -> FloatRows:
    rows = np.asarray(batch, np.float64).reshape(len(batch), -1)
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    scaled = (high - low <= WIDEST_SCALED) & (high > low)
    low, high = np.where(scaled, low, -1.0), np.where(scaled, high, 1.0)
    return ((rows - low) / (high - low) * 2 - 1).astype(np.float32)


@_vectors.register(spaces.Discrete)
def _(space: spaces.Discrete[Any], batch: Any) -> FloatRows:
    return np.eye(int(space.n), dtype=np.float32)[np.asarray(batch) - space.start]


@_vectors.register
def _(space: spaces.MultiDiscrete, batch: Any) -> FloatRows:
    choices = (np.asarray(batch) - space.start).reshape(len(batch), -1)
    one_hots = [
        np.eye(int(n), dtype=np.float32)[choices[:, i]]
        for i, n in enumerate(space.nvec.reshape(-1))
    ]
    return np.concatenate(one_hots, axis=1)


@_vectors.register
def _(space: spaces.MultiBinary, batch: Any) -> FloatRows:
    return np.asarray(batch, np.float32).reshape(len(batch), -1)


@_vectors.register
def _(space: spaces.Tuple, batch: Any) -> FloatRows:
    parts = [_vectors(member, part) for member, part in zip(space.spaces, batch, strict=True)]
    return np.concatenate(parts, axis=1)


@_vectors.register
def _(space: spaces.Dict, batch: Any) -> FloatRows:
    parts = [_vectors(member, batch[name]) for name, member in space.spaces.items()]
    return np.concatenate(parts, axis=1)


@singledispatch
def _from_zero(space: Space[Any]) -> Space[Any]:
    """The action space with every choice counted from 0."""
    raise UnsupportedSpace(f"a network cannot act in {type(space).__name__} spaces, as in {space}")


@_from_zero.register(spaces.Box)
@_from_zero.register(spaces.MultiBinary)
def _(space: Space[Any]) -> Space[Any]:
    return space


@_from_zero.register(spaces.Discrete)
def _(space: spaces.Discrete[Any]) -> Space[Any]:
    return spaces.Discrete(int(space.n))


@_from_zero.register
def _(space: spaces.MultiDiscrete) -> Space[Any]:
    return spaces.MultiDiscrete(space.nvec)


@_from_zero.register
def _(space: spaces.Tuple) -> Space[Any]:
    return spaces.Tuple([_from_zero(member) for member in space.spaces])


@_from_zero.register
def _(space: spaces.Dict) -> Space[Any]:
    return spaces.Dict({name: _from_zero(member) for name, member in space.spaces.items()})


@singledispatch
def _shift(space: Space[Any], actions: Any) -> Any:
    return actions


@_shift.register(spaces.Discrete)
@_shift.register(spaces.MultiDiscrete)
def _(space: Any, actions: Any) -> Any:
    return (np.asarray(actions) + space.start).astype(space.dtype)


@_shift.register
def _(space: spaces.Tuple, actions: Any) -> Any:
    return tuple(_shift(member, part) for member, part in zip(space.spaces, actions, strict=True))


@_shift.register
def _(space: spaces.Dict, actions: Any) -> Any:
    return {name: _shift(member, actions[name]) for name, member in space.spaces.items()}
