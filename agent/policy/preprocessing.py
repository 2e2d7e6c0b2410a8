"""What RLlib's connectors do to observations before a network sees them, on whole batches.

RLlib's own pieces work on one episode object after another. These do the same sums on arrays
[n, ...], from the same state; ``tests/agent/policy`` holds them to RLlib's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tree
from gymnasium import Space, spaces
from numpy.typing import NDArray
from ray.rllib.utils.numpy import SMALL_NUMBER, flatten_inputs_to_1d_tensor
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space

Arrays = Mapping[str, NDArray[Any]]


class Step(Protocol):
    """One of the things done to a batch of observations, in order."""

    def apply(self, batch: Any) -> Any:
        """The batch after it; ``batch`` itself is left alone."""

    def to_json(self) -> dict[str, Any]:
        """Its settings, with the ``kind`` under which ``from_json`` knows it."""

    def arrays(self) -> Arrays:
        """Its state."""


@dataclass(frozen=True)
class MeanStd:
    """RLlib's ``MeanStdFilter`` as it was when training stopped; serving does not move it on.

    Attributes:
        mean: of each number.
        std: of each number.
        de_mean: whether the mean is taken off.
        de_std: whether to divide by the standard deviation.
        clip: the largest absolute value afterwards; None or 0 for no bound.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.floating[Any]]
    de_mean: bool = True
    de_std: bool = True
    clip: float | None = 10.0

    def apply(self, batch: Any) -> Any:
        rows: NDArray[Any] = np.asarray(batch)
        dtype = rows.dtype
        if self.de_mean:
            rows = rows - self.mean
        if self.de_std:
            rows = rows / (self.std + SMALL_NUMBER)
        if self.clip:
            rows = np.clip(rows, -self.clip, self.clip)
        return rows.astype(dtype)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "mean_std",
            "de_mean": self.de_mean,
            "de_std": self.de_std,
            "clip": self.clip,
        }

    def arrays(self) -> Arrays:
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Flatten:
    """RLlib's ``FlattenObservations``: float32 [n, width], choices one-hot.

    Attributes:
        space: of the observations that come in.
        removed: keys of a Dict that are left out.
    """

    space: Space[Any]
    removed: Sequence[str] = ()
    _struct: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        struct = get_base_struct_from_space(self.space)
        if self.removed:
            struct = {key: part for key, part in struct.items() if key not in self.removed}
        object.__setattr__(self, "_struct", struct)

    def apply(self, batch: Any) -> Any:
        if self.removed:
            batch = {key: part for key, part in batch.items() if key not in self.removed}
        flat = tree.map_structure(np.asarray, batch)
        return flatten_inputs_to_1d_tensor(flat, self._struct, batch_axis=True)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "flatten", "removed": list(self.removed)}

    def arrays(self) -> Arrays:
        return {}

    @property
    def space_after(self) -> Space[Any]:
        one = tree.map_structure(lambda part: part.sample()[None], self._struct)
        width = flatten_inputs_to_1d_tensor(one, self._struct, batch_axis=True).shape[1]
        return spaces.Box(-np.inf, np.inf, (width,), np.float32)


def from_json(settings: Mapping[str, Any], arrays: Arrays, space: Space[Any]) -> Step:
    """A step from its settings and state.

    Args:
        settings: what ``to_json`` gave.
        arrays: what ``arrays`` gave.
        space: of the observations that come in.

    Raises:
        ValueError: a kind that this version does not know.
    """
    kind = settings["kind"]
    if kind == "mean_std":
        return MeanStd(
            arrays["mean"], arrays["std"], settings["de_mean"], settings["de_std"], settings["clip"]
        )
    if kind == "flatten":
        return Flatten(space, tuple(settings["removed"]))
    raise ValueError(f"no preprocessing '{kind}' is known")


def space_after(step: Step, space: Space[Any]) -> Space[Any]:
    """The space that observations of ``space`` are in after the step, as far as steps need it."""
    return step.space_after if isinstance(step, Flatten) else space
