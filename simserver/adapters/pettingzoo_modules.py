"""PettingZoo's modules, such as ``mpe2.simple_tag_v3``, and the environments they make."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium as gym

from farsim.errors import UnknownSimulator
from simserver.adapters import constructor
from simserver.simulator import Parameter


@dataclass(frozen=True)
class Maker:
    """How to make a module's environments.

    Attributes:
        make_env: its ``parallel_env``, or else its ``env``.
        parameters: what a client may choose.
    """

    make_env: Callable[..., Any]
    parameters: tuple[Parameter, ...]


def find(name: str, path: str) -> Maker:
    """The environment of a module, named as it is or below the package ``pettingzoo``.

    Args:
        name: what the user called it, for errors.
        path: of the module, with dots.

    Raises:
        UnknownSimulator: there is no such module, it needs a package that is missing, or it makes
            no environments.
    """
    module = _import(name, path)
    make_env = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if not callable(make_env):
        raise UnknownSimulator(
            f"'{module.__name__}' has neither a function 'parallel_env' nor 'env': name a module "
            "of one environment, such as mpe2.simple_tag_v3",
            name,
        )
    return Maker(make_env, constructor.parameters_of(_signature(module, make_env)))


def _import(name: str, path: str) -> ModuleType:
    for candidate in (path, f"pettingzoo.{path}"):
        try:
            return importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{candidate}.".startswith(f"{error.name}."):
                raise _missing(name, candidate, error) from error
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise _missing(name, candidate, error) from error
    package = path.partition(".")[0]
    raise UnknownSimulator(
        f"no module '{path}' or 'pettingzoo.{path}' here or installed: install the package that "
        f"has it next to farsim (pip install {package}, or pip install 'pettingzoo[{package}]')",
        name,
    )


def _missing(name: str, module: str, error: Exception) -> UnknownSimulator:
    package, _, rest = module.partition(".")
    family = rest.partition(".")[0]
    how = f": pip install 'pettingzoo[{family}]'" if package == "pettingzoo" else ""
    return UnknownSimulator(
        f"'{name}' needs a package that is missing ({error}); install it next to farsim{how}", name
    )


def _signature(module: ModuleType, make_env: Callable[..., Any]) -> Callable[..., Any]:
    """What has the signature: of a bare ``**kwargs`` that is the module's ``raw_env``."""
    arguments = inspect.signature(make_env).parameters.values()
    raw = getattr(module, "raw_env", None)
    if callable(raw) and all(a.kind is a.VAR_KEYWORD for a in arguments):
        return raw
    return make_env
