"""What a class or function that makes environments takes, as parameters that clients choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Text

from simserver.simulator import Parameter

_PRINTABLE = "".join(map(chr, range(32, 127)))
#: Arguments that are not the client's to choose.
_RESERVED = {"render_mode", "disable_env_checker", "num_envs", "max_episode_steps"}


class _Switch(Parameter):
    """One that is True or False, which some constructors tell from 1 and 0."""


def parameters_of(
    make_env: Callable[..., Any], defaults: Mapping[str, Any] | None = None
) -> tuple[Parameter, ...]:
    """The keyword arguments that have a number, a boolean or a string as default.

    Args:
        make_env: the class or function. If it has an attribute ``farsim_parameters``, that is
            what it takes, and its signature does not matter.
        defaults: of arguments, where they are not those of the signature.
    """
    own = getattr(make_env, "farsim_parameters", None)
    if own is not None:
        return tuple(own)
    arguments = {a.name: a.default for a in inspect.signature(make_env).parameters.values()}
    arguments |= defaults or {}
    found = [_parameter(name, value) for name, value in arguments.items() if name not in _RESERVED]
    return tuple(parameter for parameter in found if parameter is not None)


def takes_render_mode(make_env: Callable[..., Any]) -> bool:
    """Whether ``make_env`` has an argument ``render_mode``."""
    arguments = inspect.signature(make_env).parameters.values()
    return any(a.name == "render_mode" or a.kind is a.VAR_KEYWORD for a in arguments)


def argument(parameter: Parameter, value: Any) -> Any:
    """A value of a parameter as Python has it: True or False, the number in a scalar array."""
    if isinstance(parameter, _Switch):
        return bool(value)
    if (isinstance(value, np.ndarray) and value.ndim == 0) or isinstance(value, np.generic):
        return value.item()
    return value


def seed(value: int | None) -> int | None:
    """Environments take seeds from 0 on; the contract's are signed 64-bit integers."""
    return None if value is None else value & 0xFFFF_FFFF_FFFF_FFFF


def _parameter(name: str, default: Any) -> Parameter | None:
    if isinstance(default, bool):
        return _Switch(name, Discrete(2), np.int64(default))
    if isinstance(default, int):
        bound = 2**53
        return Parameter(name, Box(-bound, bound, (), np.int64), np.array(default))
    if isinstance(default, float):
        return Parameter(name, Box(-np.inf, np.inf, (), np.float64), np.array(default))
    if isinstance(default, str):
        return Parameter(name, Text(256, min_length=0, charset=_PRINTABLE), default)
    return None
