"""Episode configurations: from parameters that a client gives to what a simulator is sent.

A number becomes a range of which each episode draws one value, so ``7`` means just that and
``[0, 100]`` anything between, as a scenario in Bonsai's Inkling does; a value with names becomes
a choice among these. Fields without bounds that nobody has given a value are no parameters: they
are left out of the configuration, and simulators use their own.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from farsim import options as option_values
from farsim.errors import InvalidOption
from simserver.gateway.bonsai.schema import Choice, Number, Struct, Type
from simserver.simulator import Parameter

_SEEDS = 2**31


class Field(abc.ABC):
    """One field of a configuration, and the parameter that decides it."""

    def __init__(self, name: str, space: Space[Any], default: Any, of: Type) -> None:
        choices = ("", *of.names) if isinstance(of, Choice) else ()
        if default is not None:
            default = option_values.check(name, space, default, choices)
        self.name, self._type = name, of
        self.parameter = Parameter(
            name, space, default, of.comment, choices=choices, per_episode=True
        )

    def check(self, value: Any) -> None:
        """Raises ``ValueError`` unless a member of the parameter's space makes sense."""

    @abc.abstractmethod
    def draw(self, value: Any, random: np.random.Generator) -> tuple[Any, Any]:
        """One episode's value in JSON, and the parameter's value that gives it again."""


class _Range(Field):
    """From the lowest to the highest of two numbers, both included."""

    _type: Number

    def __init__(self, name: str, of: Number, default: Any) -> None:
        low, high = of.space.low.item(), of.space.high.item()
        space = spaces.Box(low, high, (2,), of.dtype)
        super().__init__(name, space, [low, high] if default is None else default, of)
        self.check(self.parameter.default)

    def check(self, value: Any) -> None:
        low, high = value
        if low > high:
            raise ValueError(
                f"{self.name}: the lowest, {low}, is above the highest, {high}: give "
                "[lowest, highest]"
            )

    def draw(self, value: Any, random: np.random.Generator) -> tuple[Any, Any]:
        low, high = value.tolist()
        if low == high:
            drawn = low
        elif self._type.step:
            steps = int((high - low) / self._type.step + 1e-9)
            drawn = low + self._type.step * int(random.integers(steps, endpoint=True))
        else:
            drawn = random.uniform(low, high)
        return self._type.to_json(drawn), np.array([drawn, drawn], value.dtype)


class _Named(Field):
    """One of some values by its name, or any of them for an empty one."""

    _type: Choice

    def __init__(self, name: str, of: Choice, default: Any) -> None:
        charset = frozenset("".join(of.names)) | {" "}
        longest = max(map(len, of.names))
        space = spaces.Text(longest, min_length=0, charset=charset)
        super().__init__(name, space, "" if default is None else str(default), of)

    def draw(self, value: Any, random: np.random.Generator) -> tuple[Any, Any]:
        names = self._type.names
        drawn = value or names[int(random.integers(len(names)))]
        return self._type.values[names.index(drawn)], drawn


class _Fixed(Field):
    """The very value, of any type."""

    def draw(self, value: Any, random: np.random.Generator) -> tuple[Any, Any]:
        return self._type.to_json(value), value


def fields(config: Struct, defaults: Mapping[str, Any], seed_field: str = "") -> list[Field]:
    """What clients may choose of a configuration.

    Args:
        config: its type.
        defaults: values for some of its fields.
        seed_field: the one that gets the episode's seed, and is no parameter.

    Raises:
        UnknownOption: a default, or the seed, for a field that there is not.
        InvalidOption: a default that is none of the field's values.
    """
    for name in [*defaults, *([seed_field] if seed_field else [])]:
        option_values.known(name, config.fields, "config")
    made: list[Field] = []
    for name, of in config.fields.items():
        default = defaults.get(name)
        if name == seed_field:
            continue
        try:
            if isinstance(of, Number) and (default is not None or of.space.is_bounded()):
                made.append(_Range(name, of, default))
            elif isinstance(of, Choice):
                made.append(_Named(name, of, default))
            elif default is not None:
                made.append(_Fixed(name, of.space, default, of))
        except ValueError as error:
            if isinstance(error, InvalidOption):
                raise
            raise InvalidOption(str(error), name) from error
    return made


def seed(random: np.random.Generator) -> int:
    """For simulators that draw for themselves: 0 to 2^31 - 1."""
    return int(random.integers(_SEEDS))
