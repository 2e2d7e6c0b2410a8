"""Settings that people write in one option: ``level=hard; size=3``."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml
from gymnasium.spaces import Box, Discrete, Space, Text

from farsim.errors import InvalidOption
from simserver.simulator import Parameter

#: Any line of printable ASCII characters.
PRINTABLE = Text(4096, min_length=0, charset="".join(map(chr, range(32, 127))))


def parameter(
    name: str, default: str, description: str, choices: tuple[str, ...] = ()
) -> Parameter:
    """A parameter whose value is a text."""
    return Parameter(name, PRINTABLE, default, description, choices=choices)


def parse(option: str, text: str) -> dict[str, Any]:
    """Reads ``name=value`` pairs between semicolons; each value is YAML.

    Raises:
        InvalidOption: a pair without "=" or with a value that is no YAML.
    """
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InvalidOption(
                f"option '{option}': write name=value; name=value, not '{text}'", option
            )
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidOption(f"option '{option}': '{value}' is no value: {error}", option) from (
                error
            )
    return found


def ranges(option: str, text: str) -> dict[str, tuple[float, float]]:
    """Reads ``name=low:high`` pairs between semicolons, both ends included.

    Raises:
        InvalidOption: a pair of another form.
    """
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(";"))):
        name, _, ends = pair.partition("=")
        low, _, high = ends.partition(":")
        try:
            found[name.strip()] = (float(low), float(high))
        except ValueError as error:
            raise InvalidOption(
                f"option '{option}': write name=low:high; name=low:high, not '{text}'", option
            ) from error
        if found[name.strip()][0] > found[name.strip()][1]:
            raise InvalidOption(f"option '{option}': {low} is above {high}", option)
    return found


def bounded(space: Space[Any], bounds: tuple[float, float], option: str, name: str) -> Space[Any]:
    """``space`` with other bounds: a whole number becomes a ``Discrete``.

    Raises:
        InvalidOption: the space is no number and no array of numbers.
    """
    low, high = bounds
    if isinstance(space, (Box, Discrete)):
        whole = np.dtype(space.dtype).kind in "iu"
        if whole and space.shape == ():
            return Discrete(int(high) - int(low) + 1, start=int(low))
        if isinstance(space, Box):
            return Box(low, high, space.shape, space.dtype)  # type: ignore[arg-type]
    raise InvalidOption(f"option '{option}': '{name}' is {space}, which has no range", option)
