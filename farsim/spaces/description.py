"""Gymnasium spaces as ``farsim.v1.Space``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim import tensors
from farsim.errors import InvalidArgument, Unsupported
from farsim.spaces.kinds import join, located, members, unsupported
from farsim.spaces.parsing import from_proto
from farsim.v1 import space_pb2 as pb
from farsim.v1 import tensor_pb2


def to_proto(space: Space[Any], units: Mapping[str, str] | None = None) -> pb.Space:
    """The description of a space.

    Seeds do not travel, nor does whether an integer Box was made with infinite bounds. The
    characters of a Text are sorted.

    Args:
        space: of one of the ten kinds, or a subclass of one, which is described as that kind.
        units: of members of Dicts, by path: ``{"arm/angle": "rad"}``.

    Raises:
        Unsupported: another kind of space, or a dtype, name or number that the contract lacks.
        InvalidArgument: a unit for a path at which there is no member of a Dict, or a space
            that ``from_proto`` would refuse: too deep, too large, or without any value.
    """
    left = dict(units or {})
    try:
        message = _describe(space, "", left)
    except UnicodeEncodeError as error:
        raise Unsupported(f"a name, unit or character set is not valid Unicode: {error}") from None
    if left:
        raise InvalidArgument(f"units for {sorted(left)}, which are no members of a Dict")
    from_proto(message)
    return message


def units(message: pb.Space, path: str = "") -> dict[str, str]:
    """The units in a description, as ``to_proto`` takes them."""
    found: dict[str, str] = {}
    for member in message.dict.members:
        inside = join(path, member.name)
        if member.unit:
            found[inside] = member.unit
        found |= units(member.space, inside)
    for several in (message.tuple.members, message.one_of.members):
        for index, member_space in enumerate(several):
            found |= units(member_space, join(path, index))
    if message.HasField("sequence"):
        found |= units(message.sequence.element, join(path, "element"))
    return found


@singledispatch
def _describe(space: Space[Any], path: str, left: dict[str, str]) -> pb.Space:
    """Describes ``space`` and takes the units of its members off ``left``."""
    raise unsupported(space)


@_describe.register(spaces.Box)
def _box(space: spaces.Box, path: str, left: dict[str, str]) -> pb.Space:
    return pb.Space(
        box=pb.Box(
            dtype=_dtype(space.dtype, path),
            shape=space.shape,
            low=tensors.pack(_shortened(space.low)),
            high=tensors.pack(_shortened(space.high)),
        )
    )


@_describe.register(spaces.Discrete)
def _discrete(space: spaces.Discrete[Any], path: str, left: dict[str, str]) -> pb.Space:
    return pb.Space(
        discrete=pb.Discrete(
            n=_int64(space.n, path),
            start=_int64(space.start, path),
            dtype=_dtype(space.dtype, path),
        )
    )


@_describe.register(spaces.MultiDiscrete)
def _multi_discrete(space: spaces.MultiDiscrete, path: str, left: dict[str, str]) -> pb.Space:
    message = pb.MultiDiscrete(dtype=_dtype(space.dtype, path), n=_int64s(space.nvec, path))
    if space.start.any():
        message.start.CopyFrom(_int64s(space.start, path))
    return pb.Space(multi_discrete=message)


@_describe.register(spaces.MultiBinary)
def _multi_binary(space: spaces.MultiBinary, path: str, left: dict[str, str]) -> pb.Space:
    return pb.Space(multi_binary=pb.MultiBinary(shape=space.shape))


@_describe.register(spaces.Text)
def _text(space: spaces.Text, path: str, left: dict[str, str]) -> pb.Space:
    if any(len(character) != 1 for character in space.character_set):
        raise Unsupported(located(path, "a Text's characters must be single code points"), path)
    if space.max_length >= 2**32:
        raise Unsupported(located(path, f"max_length {space.max_length} is over 2**32 - 1"), path)
    # Sorted, since a frozenset's own order changes from one process to the next.
    return pb.Space(
        text=pb.Text(
            min_length=space.min_length,
            max_length=space.max_length,
            characters="".join(sorted(space.character_set)),
        )
    )


@_describe.register(spaces.Tuple)
def _tuple(space: spaces.Tuple, path: str, left: dict[str, str]) -> pb.Space:
    return pb.Space(tuple=pb.Tuple(members=_members(space, path, left)))


@_describe.register(spaces.Dict)
def _dict(space: spaces.Dict, path: str, left: dict[str, str]) -> pb.Space:
    message = pb.Dict()
    for name, member in members(space).items():
        inside = join(path, name)
        message.members.add(
            name=name, unit=left.pop(inside, ""), space=_describe(member, inside, left)
        )
    return pb.Space(dict=message)


@_describe.register(spaces.Sequence)
def _sequence(space: spaces.Sequence, path: str, left: dict[str, str]) -> pb.Space:
    (element,) = _members(space, path, left)
    return pb.Space(sequence=pb.Sequence(element=element, stacked=bool(space.stack)))


@_describe.register(spaces.Graph)
def _graph(space: spaces.Graph, path: str, left: dict[str, str]) -> pb.Space:
    node, *edge = _members(space, path, left)
    return pb.Space(graph=pb.Graph(node=node, edge=edge[0] if edge else None))


@_describe.register(spaces.OneOf)
def _one_of(space: spaces.OneOf, path: str, left: dict[str, str]) -> pb.Space:
    return pb.Space(one_of=pb.OneOf(members=_members(space, path, left)))


def _members(space: Space[Any], path: str, left: dict[str, str]) -> list[pb.Space]:
    return [_describe(member, join(path, name), left) for name, member in members(space).items()]


def _dtype(dtype: Any, path: str) -> tensor_pb2.DType:
    try:
        return tensors.code_of(dtype)
    except Unsupported as error:
        raise Unsupported(located(path, error.message), path) from None


def _shortened(bound: NDArray[Any]) -> NDArray[Any]:
    """A scalar if all elements are the same."""
    if bound.size and (bound == bound.flat[0]).all():
        return bound.reshape(-1)[0]
    return bound


def _int64(number: Any, path: str) -> int:
    if int(number) >= 2**63:
        raise Unsupported(located(path, f"{number} is over 2**63 - 1"), path)
    return int(number)


def _int64s(numbers: NDArray[Any], path: str) -> tensor_pb2.Tensor:
    if numbers.size:
        _int64(numbers.max(), path)
    return tensors.pack(numbers.astype(np.int64))
