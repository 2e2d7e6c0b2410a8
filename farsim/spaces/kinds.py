"""The ten kinds of space, how they nest, and how an error names a place inside one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim.errors import InvalidTensor, Unsupported

#: A batch of values of one space, laid out as Gymnasium's vector environments lay it out.
BatchedValue: TypeAlias = Any

IntArray: TypeAlias = NDArray[np.int64]

#: The kinds whose batch is one array with a leading dimension for the rows.
ArraySpace: TypeAlias = (
    spaces.Box | spaces.Discrete[Any] | spaces.MultiDiscrete | spaces.MultiBinary
)

#: The kinds whose batch is a tuple with one value for each row.
ListedSpace: TypeAlias = spaces.Text | spaces.Sequence | spaces.Graph | spaces.OneOf


def unsupported(space: object) -> Unsupported:
    """The error for a space of no known kind."""
    return Unsupported(
        f"{type(space).__name__} is none of the kinds of space that can travel: Box, Discrete, "
        "MultiDiscrete, MultiBinary, Text, Tuple, Dict, Sequence, Graph, OneOf (or a subclass of "
        "one of them)"
    )


def members(space: Space[Any]) -> dict[str, Space[Any]]:
    """The spaces right inside ``space``, in order, by the name they have in paths.

    Raises:
        Unsupported: a ``Dict`` with a name that is no string.
    """
    if isinstance(space, spaces.Dict):
        for name in space.spaces:
            if not isinstance(name, str):
                raise Unsupported(f"names in a Dict must be strings, not {name!r}")
        return dict(space.spaces)
    if isinstance(space, (spaces.Tuple, spaces.OneOf)):
        return {str(index): member for index, member in enumerate(space.spaces)}
    if isinstance(space, spaces.Sequence):
        return {"element": space.feature_space}
    if isinstance(space, spaces.Graph):
        edge = {} if space.edge_space is None else {"edge": space.edge_space}
        return {"node": space.node_space, **edge}
    return {}


def leaves(space: Space[Any], path: str = "") -> Iterator[tuple[str, Space[Any]]]:
    """The spaces inside ``space`` that contain no other, depth first, each with its path."""
    if isinstance(space, (spaces.Tuple, spaces.Dict, spaces.Sequence, spaces.Graph, spaces.OneOf)):
        for name, member in members(space).items():
            yield from leaves(member, join(path, name))
    else:
        yield path, space


def join(path: str, name: object) -> str:
    """The path of member ``name`` of the space at ``path``; the outermost space has path ""."""
    return f"{path}/{name}" if path else str(name)


def located(path: str, message: str) -> str:
    """``message`` with the path in front, for errors."""
    return f"at '{path}': {message}" if path else message


def invalid(path: str, message: str) -> InvalidTensor:
    """The error for values or tensors that do not fit the space at ``path``."""
    return InvalidTensor(located(path, message), path)
