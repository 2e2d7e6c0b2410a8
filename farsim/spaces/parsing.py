"""``farsim.v1.Space`` as Gymnasium spaces, for descriptions that cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim import tensors
from farsim.errors import FarsimError, InvalidArgument, InvalidTensor
from farsim.spaces.kinds import join, located
from farsim.v1 import space_pb2 as pb
from farsim.v1 import tensor_pb2

#: How many spaces may lie inside each other, the outermost one included. With more, a
#: description in a reply would pass protobuf's own bound of 100 nested messages.
MAX_DEPTH = 32

#: What the Gymnasium spaces of one description may take in memory, about. A few bytes can
#: describe a Box of any size, as a scalar bound stands for all its elements.
MAX_BYTES = 2**30

_BYTES_PER_SPACE = 2048
_BYTES_PER_CHARACTER = 256

#: One less than a tensor's, as a batch adds a dimension for the rows.
_MAX_DIMENSIONS = tensors.MAX_DIMENSIONS - 1


def from_proto(message: pb.Space) -> Space[Any]:
    """The Gymnasium space that a description describes.

    Raises:
        InvalidArgument: the description breaks the contract, describes what Gymnasium cannot
            hold, or is too deep or too large. The subject is the path of what is wrong.
        InvalidTensor: a bound's dtype, shape and bytes do not agree with each other or with the
            space.
    """
    return _parse(message, _Place())


@dataclass
class _Budget:
    bytes_left: int = field(default_factory=lambda: MAX_BYTES)


@dataclass(frozen=True)
class _Place:
    """Where in a description we are.

    Attributes:
        path: of the space.
        depth: how many spaces there are from the outermost one to this one.
        copies: how often Gymnasium holds this space: a stacked Sequence has two of its element.
        budget: what is left for the whole description.
    """

    path: str = ""
    depth: int = 1
    copies: int = 1
    budget: _Budget = field(default_factory=_Budget)

    def inside(self, name: object, copies: int = 1) -> _Place:
        """The place of a member."""
        place = _Place(join(self.path, name), self.depth + 1, self.copies * copies, self.budget)
        if place.depth > MAX_DEPTH:
            raise place.wrong(f"expected at most {MAX_DEPTH} spaces inside each other, found more")
        return place

    def wrong(self, message: str, error: type[FarsimError] = InvalidArgument) -> FarsimError:
        """The error about this place."""
        return error(located(self.path, message), self.path)

    def spend(self, amount: int) -> None:
        """Takes ``amount`` bytes off the budget."""
        self.budget.bytes_left -= amount * self.copies
        if self.budget.bytes_left < 0:
            raise self.wrong(
                f"the space would take more than {MAX_BYTES} bytes of memory; split or shrink it"
            )

    def dtype(self, code: tensor_pb2.DType) -> np.dtype[Any]:
        """The dtype of a space."""
        try:
            return tensors.dtype_of(code)
        except InvalidTensor as error:
            raise self.wrong(error.message) from None

    def integer_dtype(self, code: tensor_pb2.DType) -> np.dtype[Any]:
        """The dtype of a space of integers, which may be left out."""
        dtype = self.dtype(code or tensor_pb2.DTYPE_INT64)
        if dtype.kind not in "iu":
            raise self.wrong(f"expected an integer dtype, found {dtype.name}")
        return dtype

    def shape(self, sizes: Iterable[int], smallest: int, bytes_per_element: int) -> tuple[int, ...]:
        """The shape of a space's values, after paying for its elements."""
        shape = tuple(sizes)
        if len(shape) > _MAX_DIMENSIONS:
            raise self.wrong(f"expected at most {_MAX_DIMENSIONS} dimensions, found {len(shape)}")
        if shape and min(shape) < smallest:
            raise self.wrong(f"expected dimensions of at least {smallest}, found {list(shape)}")
        # A dimension of 0 must not hide others that are beyond what NumPy can count.
        self.spend(math.prod(max(size, 1) for size in shape) * bytes_per_element)
        return shape

    def array(self, message: Any, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The tensor in field ``name`` of a space, which has to be there and of ``dtype``."""
        if not message.HasField(name):
            raise self.wrong(f"{name} is missing")
        try:
            array = tensors.unpack(getattr(message, name))
        except InvalidTensor as error:
            raise self.wrong(f"{name}: {error.message}", InvalidTensor) from None
        if array.dtype != dtype:
            raise self.wrong(
                f"expected {name} of dtype {dtype.name}, found {array.dtype.name}", InvalidTensor
            )
        return array


def _parse(message: pb.Space, place: _Place) -> Space[Any]:
    place.spend(_BYTES_PER_SPACE)
    kind = message.WhichOneof("kind")
    if kind is None:
        raise place.wrong(f"no kind of space is set; expected one of {', '.join(_KINDS)}")
    return _KINDS[kind](getattr(message, kind), place)


def _box(message: pb.Box, place: _Place) -> Space[Any]:
    dtype = place.dtype(message.dtype)
    # Gymnasium keeps for each element both bounds, and whether they are finite.
    shape = place.shape(message.shape, 0, 2 * dtype.itemsize + 2)
    low = _bound(message, "low", dtype, shape, place)
    high = _bound(message, "high", dtype, shape, place)
    if (low > high).any():
        first = tuple(np.argwhere(low > high)[0])
        raise place.wrong(
            f"low {low[first]} is above high {high[first]} at {list(map(int, first))}"
        )
    return spaces.Box(low, high, shape, dtype.type)


def _bound(
    message: pb.Box, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], place: _Place
) -> NDArray[Any]:
    bound = place.array(message, name, dtype)
    if bound.shape not in ((), shape):
        raise place.wrong(
            f"expected {name} of shape [] or {list(shape)}, found {list(bound.shape)}",
            InvalidTensor,
        )
    if np.isnan(bound).any():
        raise place.wrong(f"{name} is not a number", InvalidTensor)
    return np.broadcast_to(bound, shape)


def _discrete(message: pb.Discrete, place: _Place) -> Space[Any]:
    dtype = place.integer_dtype(message.dtype)
    _check_range(message.n, message.start, dtype, place)
    return spaces.Discrete(message.n, start=message.start, dtype=dtype.type)


def _multi_discrete(message: pb.MultiDiscrete, place: _Place) -> Space[Any]:
    dtype = place.integer_dtype(message.dtype)
    n = place.array(message, "n", np.dtype(np.int64))
    place.shape(n.shape, 0, 2 * dtype.itemsize)
    start = np.zeros_like(n)
    if message.HasField("start"):
        start = place.array(message, "start", np.dtype(np.int64))
    if start.shape != n.shape:
        raise place.wrong(
            f"expected start of shape {list(n.shape)}, found {list(start.shape)}", InvalidTensor
        )
    limits = np.iinfo(dtype)
    highest = min(limits.max, 2**63 - 1)
    last_start = highest - (np.maximum(n, 1) - 1)
    suspect = (n < 1) | (n > highest) | (start < limits.min) | (start > last_start)
    for count, first in zip(n[suspect].tolist(), start[suspect].tolist(), strict=True):
        _check_range(count, first, dtype, place)
    return spaces.MultiDiscrete(n.astype(dtype), dtype.type, start=start.astype(dtype))


def _check_range(n: int, start: int, dtype: np.dtype[Any], place: _Place) -> None:
    """Raises unless n integers from ``start`` on, and ``n`` itself, are of ``dtype``."""
    if n < 1:
        raise place.wrong(f"expected n of at least 1, found {n}")
    limits = np.iinfo(dtype)
    # Gymnasium keeps n in the same dtype as the values.
    if start < limits.min or start + n - 1 > limits.max or n > limits.max:
        raise place.wrong(
            f"expected n and values that fit {dtype.name}, found n {n} and values from {start} "
            f"to {start + n - 1}"
        )


def _multi_binary(message: pb.MultiBinary, place: _Place) -> Space[Any]:
    shape = place.shape(message.shape, 1, 1)
    # For one dimension Gymnasium tells MultiBinary(3) from MultiBinary([3]); the first is usual.
    return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)


def _text(message: pb.Text, place: _Place) -> Space[Any]:
    place.spend(len(message.characters) * _BYTES_PER_CHARACTER)
    if message.min_length > message.max_length:
        raise place.wrong(
            f"min_length {message.min_length} is above max_length {message.max_length}"
        )
    if len(set(message.characters)) != len(message.characters):
        raise place.wrong("expected each character once, found one twice")
    return spaces.Text(
        message.max_length, min_length=message.min_length, charset=message.characters
    )


def _tuple(message: pb.Tuple, place: _Place) -> Space[Any]:
    return spaces.Tuple(_members(message.members, place))


def _dict(message: pb.Dict, place: _Place) -> Space[Any]:
    members: dict[str, Space[Any]] = {}
    for member in message.members:
        if member.name in members:
            raise place.wrong(f"expected each name once, found {member.name!r} twice")
        members[member.name] = _parse(member.space, place.inside(member.name))
    # As pairs: Gymnasium sorts what comes in a dict.
    return spaces.Dict(list(members.items()))


def _sequence(message: pb.Sequence, place: _Place) -> Space[Any]:
    copies = 2 if message.stacked else 1
    element = _parse(message.element, place.inside("element", copies))
    return spaces.Sequence(element, stack=message.stacked)


def _graph(message: pb.Graph, place: _Place) -> Space[Any]:
    node = _node_or_edge(message.node, place.inside("node"))
    if not message.HasField("edge"):
        return spaces.Graph(node, None)
    return spaces.Graph(node, _node_or_edge(message.edge, place.inside("edge")))


def _node_or_edge(message: pb.Space, place: _Place) -> Any:
    kind = message.WhichOneof("kind")
    if kind not in ("box", "discrete"):
        raise place.wrong(f"expected a box or a discrete, found {kind or 'no kind of space'}")
    return _parse(message, place)


def _one_of(message: pb.OneOf, place: _Place) -> Space[Any]:
    if not message.members:
        raise place.wrong("expected at least one member, found none")
    return spaces.OneOf(_members(message.members, place))


def _members(messages: Iterable[pb.Space], place: _Place) -> list[Space[Any]]:
    return [_parse(message, place.inside(index)) for index, message in enumerate(messages)]


_KINDS: dict[str, Callable[[Any, _Place], Space[Any]]] = {
    "box": _box,
    "discrete": _discrete,
    "multi_discrete": _multi_discrete,
    "multi_binary": _multi_binary,
    "text": _text,
    "tuple": _tuple,
    "dict": _dict,
    "sequence": _sequence,
    "graph": _graph,
    "one_of": _one_of,
}
