"""Telling whether spaces are the same, and where they are not."""

from __future__ import annotations

import hashlib
import json
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim import tensors
from farsim.spaces.kinds import join, members, unsupported


def digest(*several: Space[Any]) -> str:
    """SHA-256, in hexadecimal, of all that makes these spaces what they are, in this order.

    It depends on the kinds, dtypes, shapes, bounds, names and order of the spaces, and on nothing
    else: not on units or seeds, nor on the versions of Python, NumPy or Gymnasium, nor on the
    machine. Spaces have the same digest exactly if ``differences`` finds none.

    Raises:
        Unsupported: a space that cannot travel.
    """
    text = json.dumps([_canonical(space) for space in several], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def differences(here: Space[Any], there: Space[Any], path: str = "") -> list[str]:
    """What is not the same in two spaces, each with its path; empty if they are the same.

    For example ``["arm/joints: shape (3,) here, (4,) there"]``.

    Args:
        here: the space expected, trained for, or at hand.
        there: the one to compare it with.
        path: of both spaces within others.

    Raises:
        Unsupported: a space that cannot travel.
    """
    if _kind(here) != _kind(there):
        return [_named(path, f"{_kind(here)} here, {_kind(there)} there")]
    found = []
    ours, theirs = _facts(here), _facts(there)
    for name, fact in ours.items():
        other = theirs[name]
        if isinstance(fact, np.ndarray):
            found += [_named(path, text) for text in _array_difference(name, fact, other)]
        elif fact != other:
            found.append(_named(path, f"{name} {fact!r:.80} here, {other!r:.80} there"))
    inside, outside = members(here), members(there)
    for name in inside:
        if name in outside:
            found += differences(inside[name], outside[name], join(path, name))
        else:
            found.append(_named(join(path, name), "here but not there"))
    found += [
        _named(join(path, name), "there but not here") for name in outside if name not in inside
    ]
    if inside.keys() == outside.keys() and list(inside) != list(outside):
        found.append(_named(path, f"order {list(inside)} here, {list(outside)} there"))
    return found


def _named(path: str, difference: str) -> str:
    return f"{path}: {difference}" if path else difference


def _canonical(space: Space[Any]) -> list[Any]:
    """All that makes ``space`` what it is, in JSON's types and a fixed order."""
    facts = [
        [name, _hexadecimal(fact) if isinstance(fact, np.ndarray) else fact]
        for name, fact in _facts(space).items()
    ]
    inside = [[name, _canonical(member)] for name, member in members(space).items()]
    return [_kind(space), facts, inside]


def _hexadecimal(array: NDArray[Any]) -> str:
    """The little-endian bytes of an array, of one element only if all are the same."""
    # Adding 0 makes -0.0, which equals 0.0, have its bytes as well.
    array = array if array.dtype.kind == "b" else array + array.dtype.type(0)
    if array.size and (array == array.flat[0]).all():
        array = array.reshape(-1)[:1]
    return tensors.pack(array).data.hex()


def _array_difference(name: str, here: NDArray[Any], there: NDArray[Any]) -> list[str]:
    if here.shape != there.shape:
        return []  # The shape is another fact.
    wrong = np.argwhere(here != there)
    if not len(wrong):
        return []
    index = tuple(wrong[0].tolist())
    place = f" at {list(index)}" if len(wrong) < here.size else ""
    return [f"{name}{place} {here[index]} here, {there[index]} there"]


def _kind(space: Space[Any]) -> str:
    """The name of the kind that ``space`` is, or is a subclass of."""
    for kind in _KINDS:
        if isinstance(space, kind):
            return kind.__name__
    raise unsupported(space)


_KINDS: tuple[type[Space[Any]], ...] = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Text,
    spaces.Tuple,
    spaces.Dict,
    spaces.Sequence,
    spaces.Graph,
    spaces.OneOf,
)


@singledispatch
def _facts(space: Space[Any]) -> dict[str, Any]:
    """What ``space`` is besides its kind and its members, in a fixed order."""
    raise unsupported(space)


@_facts.register(spaces.Box)
def _box(space: spaces.Box) -> dict[str, Any]:
    return {**_dtype_and_shape(space), "low": space.low, "high": space.high}


@_facts.register(spaces.Discrete)
def _discrete(space: spaces.Discrete[Any]) -> dict[str, Any]:
    return {
        "dtype": _dtype_and_shape(space)["dtype"],
        "n": int(space.n),
        "start": int(space.start),
    }


@_facts.register(spaces.MultiDiscrete)
def _multi_discrete(space: spaces.MultiDiscrete) -> dict[str, Any]:
    return {**_dtype_and_shape(space), "n": space.nvec, "start": space.start}


@_facts.register(spaces.MultiBinary)
def _multi_binary(space: spaces.MultiBinary) -> dict[str, Any]:
    return {"shape": space.shape}


@_facts.register(spaces.Text)
def _text(space: spaces.Text) -> dict[str, Any]:
    return {
        "min_length": space.min_length,
        "max_length": space.max_length,
        "characters": "".join(sorted(space.character_set)),
    }


@_facts.register(spaces.Sequence)
def _sequence(space: spaces.Sequence) -> dict[str, Any]:
    return {"stacked": bool(space.stack)}


@_facts.register(spaces.Tuple)
@_facts.register(spaces.Dict)
@_facts.register(spaces.Graph)
@_facts.register(spaces.OneOf)
def _container(space: Space[Any]) -> dict[str, Any]:
    return {}


def _dtype_and_shape(space: Any) -> dict[str, Any]:
    return {"dtype": tensors.dtype_name(tensors.code_of(space.dtype)), "shape": space.shape}
