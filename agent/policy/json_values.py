"""Observations and actions as people write them in JSON."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from farsim.errors import InvalidObservation
from farsim.spaces import batch, check, unbatch


def observation_from_json(space: Space[Any], value: Any) -> Any:
    """A member of ``space`` from JSON: numbers, lists, objects, texts.

    A Box takes any nesting of lists with the right number of numbers, and a single number for one.

    Raises:
        InvalidObservation: it is none; says where and why.
    """
    subject = "observation"
    try:
        batched = batch(space, [_read(space, value, subject)])
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidObservation(f"{subject}: {error}", subject) from error
    check(space, batched, 1, InvalidObservation, subject)
    return unbatch(space, batched, 1)[0]


@singledispatch
def _read(space: Space[Any], value: Any, path: str) -> Any:
    raise InvalidObservation(
        f"{path} is a {type(space).__name__}, which JSON has no form for here: use gRPC", path
    )


@_read.register(spaces.Box)
@_read.register(spaces.Discrete)
@_read.register(spaces.MultiDiscrete)
@_read.register(spaces.MultiBinary)
def _(space: Any, value: Any, path: str) -> Any:
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise InvalidObservation(f"{path}: lists of different lengths", path) from error
    if found.dtype.kind not in "biuf":
        raise InvalidObservation(f"{path}: numbers are wanted, not {_shortly(value)}", path)
    if found.size != int(np.prod(space.shape)):
        raise InvalidObservation(
            f"{path} has shape {list(space.shape)}, and {found.size} numbers were sent", path
        )
    wanted = found.astype(space.dtype).reshape(space.shape)
    if np.issubdtype(space.dtype, np.integer) and (wanted != found.reshape(space.shape)).any():
        raise InvalidObservation(f"{path}: whole numbers are wanted", path)
    return wanted


@_read.register
def _(space: spaces.Dict, value: Any, path: str) -> Any:
    if not isinstance(value, dict) or value.keys() != space.spaces.keys():
        raise InvalidObservation(
            f"{path} is an object with {', '.join(space.spaces)}, not {_shortly(value)}", path
        )
    return {
        name: _read(member, value[name], f"{path}.{name}") for name, member in space.spaces.items()
    }


@_read.register
def _(space: spaces.Tuple, value: Any, path: str) -> Any:
    if not isinstance(value, list) or len(value) != len(space.spaces):
        raise InvalidObservation(f"{path} is a list of {len(space.spaces)} values", path)
    members = enumerate(zip(space.spaces, value, strict=True))
    return tuple(_read(member, part, f"{path}[{index}]") for index, (member, part) in members)


@_read.register
def _(space: spaces.Text, value: Any, path: str) -> Any:
    if not isinstance(value, str):
        raise InvalidObservation(f"{path} is a text, not {_shortly(value)}", path)
    return value


def to_json(value: Any) -> Any:
    """A member of a space in JSON's types."""
    if isinstance(value, dict):
        return {str(name): to_json(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(member) for member in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
