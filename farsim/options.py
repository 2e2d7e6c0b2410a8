"""Values for parameters, from what people write on a command line or in YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from farsim.errors import InvalidOption, UnknownOption
from farsim.spaces import batch


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` or a list of what is known, to end an error message with."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; there are none"


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """Reads ``name=value`` pairs; each value is YAML, so ``0.7``, ``true`` and ``[1, 2]`` work.

    Raises:
        InvalidOption: a pair without "=" or with a value that is no YAML.
    """
    import yaml

    options = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise InvalidOption(f"write options as name=value, not '{assignment}'", assignment)
        try:
            options[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidOption(f"option '{name}': '{text}' is no value: {error}", name) from error
    return options


def check(name: str, space: gym.Space[Any], value: Any, choices: Iterable[str] = ()) -> Any:
    """``value`` as a member of ``space``.

    Numbers and lists become arrays of the space's dtype, and a number given for a Box of one
    dimension or more holds for each element: ``0.7`` for a range means from 0.7 to 0.7.

    Raises:
        InvalidOption: it is none, or not among ``choices``; says what is allowed.
    """
    choices = tuple(choices)
    try:
        member = coerce(space, value)
        good = member in space
    except (TypeError, ValueError, OverflowError, KeyError):
        good = False
    if good and choices and member not in choices:
        allowed = ", ".join(f"'{choice}'" for choice in choices)
        raise InvalidOption(f"option '{name}' is one of {allowed}, not {value!r}", name)
    if not good:
        allowed = " or ".join(f"'{choice}'" for choice in choices) or f"a member of {space}"
        raise InvalidOption(f"option '{name}' takes {allowed}, not {value!r}", name)
    return member


def known(name: str, names: Iterable[str], simulator: str) -> None:
    """Raises ``UnknownOption`` with the nearest right name unless ``name`` is among ``names``."""
    names = tuple(names)
    if name not in names:
        raise UnknownOption(
            f"simulator '{simulator}' has no option '{name}'{nearest(name, names)}", name
        )


@singledispatch
def coerce(space: gym.Space[Any], value: Any) -> Any:
    """``value`` in the form that members of ``space`` have, without checking bounds."""
    return value


@coerce.register
def _(space: spaces.Box, value: Any) -> Any:
    dtype = np.dtype(space.dtype)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "b") != (dtype.kind == "b"):
        raise TypeError("not a number")
    if dtype.kind in "iu" and np.any(array != np.floor(array)):
        raise ValueError("not a whole number")
    if array.ndim == 0:
        array = np.broadcast_to(array, space.shape)
    low, high = _range(dtype)
    if np.any(array < low) or np.any(array > high):
        raise OverflowError("beyond the dtype")
    return array.astype(dtype)


@coerce.register(spaces.Discrete)
def _(space: spaces.Discrete[Any], value: Any) -> Any:
    if isinstance(value, bool) and space.n == 2 and space.start == 0:
        value = int(value)
    if isinstance(value, (bool, str)) or value != int(value):
        raise TypeError("not a whole number")
    return np.dtype(space.dtype).type(value)


@coerce.register(spaces.MultiDiscrete)
@coerce.register(spaces.MultiBinary)
def _(space: gym.Space[Any], value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "biu":
        raise TypeError("not whole numbers")
    return array.astype(space.dtype)


@coerce.register
def _(space: spaces.Tuple, value: Any) -> Any:
    if len(value) != len(space.spaces):
        raise ValueError("wrong length")
    return tuple(coerce(member, item) for member, item in zip(space.spaces, value, strict=True))


@coerce.register
def _(space: spaces.Dict, value: Any) -> Any:
    if not isinstance(value, Mapping) or set(value) != set(space.spaces):
        raise ValueError("wrong members")
    return {key: coerce(member, value[key]) for key, member in space.spaces.items()}


@coerce.register
def _(space: spaces.Sequence, value: Any) -> Any:
    if isinstance(value, str):
        raise TypeError("not a list")
    items = [coerce(space.feature_space, item) for item in value]
    # Stacked ones are arrays: an empty tuple would not tell of which dtype.
    return batch(space.feature_space, items) if space.stack else tuple(items)


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return info.min, info.max
