"""From a name on the command line to a simulator."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from farsim import options as option_values
from farsim.errors import SimulatorFault, UnknownOption, UnknownSimulator
from simserver.adapters import constructor
from simserver.adapters.gymnasium_env import GymnasiumSimulator
from simserver.adapters.vector_env import VectorEnvSimulator
from simserver.simulator import BatchSimulator, Parameter

if TYPE_CHECKING:
    from simserver.adapters.neighbours import Neighbour

#: The simulators that come with this package, by the name users call them.
BUILT_IN = {
    "adder": "simserver.sims.adder:Adder",
    "deeprm": "simserver.sims.deeprm:DeepRM",
    **{
        f"particle/{name}": f"simserver.sims.particle.scenarios.{name}:{scenario}"
        for name, scenario in {
            "simple": "Simple",
            "simple_adversary": "SimpleAdversary",
            "simple_crypto": "SimpleCrypto",
            "simple_push": "SimplePush",
            "simple_reference": "SimpleReference",
            "simple_speaker_listener": "SimpleSpeakerListener",
            "simple_spread": "SimpleSpread",
            "simple_tag": "SimpleTag",
            "simple_world_comm": "SimpleWorldComm",
        }.items()
    },
}

#: What may be served besides, for error messages and help.
FORMS = (
    "gymnasium/<id>, gymnasium-vector/<id>, pettingzoo/<module>, dmenv://<host>:<port>, "
    "openenv+http://<host>:<port>, or <module>:<class or factory>"
)


@dataclass(frozen=True)
class Entry:
    """A simulator on offer.

    Attributes:
        name: what clients open it by.
        build: makes a batch of environments from their number and a value for each parameter.
        parameters: with the defaults that this server gives them.
        description: one line for people.
    """

    name: str
    build: Callable[..., BatchSimulator]
    parameters: tuple[Parameter, ...]
    description: str

    def make(self, num_envs: int, options: Mapping[str, Any]) -> BatchSimulator:
        """A new batch of environments. ``options`` has a valid value for every parameter."""
        return self.build(num_envs, **options)

    @cached_property
    def sample(self) -> BatchSimulator:
        """A batch of one with the default options, to describe the simulator by.

        Raises:
            SimulatorFault: it can not be made.
        """
        try:
            return self.make(1, {p.name: p.default for p in self.parameters})
        except Exception as error:
            raise SimulatorFault(
                f"simulator '{self.name}' can not be made with its default options: "
                f"{type(error).__name__}: {error}",
                self.name,
            ) from error

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)


def load(names: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Entry]:
    """The simulators called ``names``.

    Args:
        names: built-in names, or one of ``FORMS``.
        defaults: values that replace the defaults of the parameters so called.

    Raises:
        UnknownSimulator: a name leads to none.
        UnknownOption: a default that no simulator here has a parameter for.
        InvalidOption: a default outside its parameter's space.
    """
    entries = {name: _load_one(name) for name in names}
    parameters = {p.name for entry in entries.values() for p in entry.parameters}
    for name in defaults:
        if name not in parameters:
            raise UnknownOption(
                f"{' and '.join(entries)}: no option '{name}'"
                f"{option_values.nearest(name, parameters)}",
                name,
            )
    return {name: _with_defaults(entry, defaults) for name, entry in entries.items()}


def _with_defaults(entry: Entry, defaults: Mapping[str, Any]) -> Entry:
    return replace(
        entry,
        parameters=tuple(
            replace(
                parameter,
                default=option_values.check(
                    parameter.name, parameter.space, defaults[parameter.name], parameter.choices
                ),
            )
            if parameter.name in defaults
            else parameter
            for parameter in entry.parameters
        ),
    )


def _load_one(name: str) -> Entry:
    kind, _, rest = name.partition("/")
    if "://" in name:
        from simserver.adapters import neighbours

        return _worlds_entry(name, neighbours.find(name))
    if name in BUILT_IN:
        return _entry(name, _import(BUILT_IN[name]))
    if kind == "gymnasium" and rest:
        return _gymnasium(name, rest)
    if kind == "gymnasium-vector" and rest:
        spec = _spec(name, rest)
        return _vector_entry(
            name,
            lambda num_envs: gym.make_vec(spec, num_envs, gym.VectorizeMode.VECTOR_ENTRY_POINT),
            f"Gymnasium's {rest}, vectorised by its author",
        )
    if kind == "pettingzoo" and rest:
        return _pettingzoo(name, rest)
    if ":" in name:
        return _entry(name, _import(name))
    hint = option_values.nearest(name, BUILT_IN)
    raise UnknownSimulator(f"no simulator '{name}'{hint} (or {FORMS})", name)


def _entry(name: str, target: Any) -> Entry:
    """For a class or factory: a batch simulator, or what makes environments of a known kind."""
    description = (getattr(target, "__doc__", None) or "").strip().partition("\n")[0]
    target = _simulator_of_scenario(target)
    if isinstance(target, type) and issubclass(target, BatchSimulator):
        return Entry(name, target, target.parameters, target.description or description)
    if isinstance(target, type) and issubclass(target, gym.vector.VectorEnv):
        return _vector_entry(name, target, description)
    if isinstance(target, type) and issubclass(target, gym.Env):
        return _env_entry(name, target, description)
    if isinstance(target, type) and issubclass(target, _pettingzoo_kinds()):
        return _pettingzoo_entry(name, target, constructor.parameters_of(target), description)
    if callable(target):
        return _factory_entry(name, target, description)
    raise UnknownSimulator(
        f"'{name}' is {type(target).__name__}; name a BatchSimulator, a gymnasium.Env, a "
        "gymnasium.vector.VectorEnv, a pettingzoo.ParallelEnv or AECEnv, or a function that makes "
        "one of the last four",
        name,
    )


def _simulator_of_scenario(target: Any) -> Any:
    """The batch simulator of a Particle scenario; anything else as it is."""
    particle = sys.modules.get("simserver.sims.particle")  # Loaded by whoever has a scenario.
    if particle and isinstance(target, type) and issubclass(target, particle.Scenario):
        return particle.simulator_of(target)
    return target


def _factory_entry(name: str, factory: Callable[..., Any], description: str) -> Entry:
    if "num_envs" in signature_of(factory):
        return _vector_entry(name, factory, description)
    parameters = constructor.parameters_of(factory)

    @cache
    def makes_agents() -> bool:
        """Whether it makes environments of PettingZoo's; only trying it tells."""
        defaults = {
            p.name: constructor.argument(p, p.default) for p in parameters if not p.per_episode
        }
        env = factory(**defaults)
        env.close()
        return isinstance(env, _pettingzoo_kinds())

    def build(num_envs: int, **options: Any) -> BatchSimulator:
        if makes_agents():
            return _agents(num_envs, factory, parameters, options)
        return GymnasiumSimulator(num_envs, make_env=factory, declared=parameters, **options)

    return Entry(name, build, parameters, description)


def signature_of(factory: Callable[..., Any]) -> Mapping[str, Any]:
    """The parameters in a callable's signature."""
    import inspect

    return inspect.signature(factory).parameters


def _env_entry(name: str, make_env: Callable[..., gym.Env[Any, Any]], description: str) -> Entry:
    parameters = GymnasiumSimulator.parameters_of(make_env)

    def build(num_envs: int, **options: Any) -> BatchSimulator:
        return GymnasiumSimulator(num_envs, make_env=make_env, declared=parameters, **options)

    return Entry(name, build, parameters, description)


def _pettingzoo(name: str, path: str) -> Entry:
    from simserver.adapters import pettingzoo_modules

    _look_here()
    maker = pettingzoo_modules.find(name, path)
    return _pettingzoo_entry(name, maker.make_env, maker.parameters, f"PettingZoo's {path}")


def _pettingzoo_entry(
    name: str, make_env: Callable[..., Any], parameters: tuple[Parameter, ...], description: str
) -> Entry:
    def build(num_envs: int, **options: Any) -> BatchSimulator:
        return _agents(num_envs, make_env, parameters, options)

    return Entry(name, build, parameters, description)


def _agents(
    num_envs: int,
    make_env: Callable[..., Any],
    parameters: tuple[Parameter, ...],
    options: Mapping[str, Any],
) -> BatchSimulator:
    from simserver.adapters.pettingzoo_env import PettingZooSimulator

    return PettingZooSimulator(num_envs, make_env=make_env, declared=parameters, **options)


def _worlds_entry(name: str, neighbour: Neighbour) -> Entry:
    def build(num_envs: int, **options: Any) -> BatchSimulator:
        from simserver.adapters.remote_worlds import RemoteWorlds

        return RemoteWorlds(num_envs, connect=lambda: neighbour.connect(**options))

    return Entry(name, build, neighbour.parameters, neighbour.description)


def _pettingzoo_kinds() -> tuple[type, ...]:
    """The classes of PettingZoo's environments, if someone has loaded it; who has one has."""
    package = sys.modules.get("pettingzoo")
    return (package.ParallelEnv, package.AECEnv) if package else ()


def _vector_entry(name: str, make_vec: Callable[..., Any], description: str) -> Entry:
    def build(num_envs: int, **options: Any) -> BatchSimulator:
        return VectorEnvSimulator(num_envs, make_vec=make_vec)

    return Entry(name, build, (), description)


def _gymnasium(name: str, env_id: str) -> Entry:
    spec = _spec(name, env_id)

    def make_env(**options: Any) -> gym.Env[Any, Any]:
        return gym.make(spec, disable_env_checker=True, **options)

    parameters = GymnasiumSimulator.parameters_of_spec(spec)

    def build(num_envs: int, **options: Any) -> BatchSimulator:
        return GymnasiumSimulator(num_envs, make_env=make_env, declared=parameters, **options)

    return Entry(name, build, parameters, f"Gymnasium's {env_id}")


def _spec(name: str, env_id: str) -> Any:
    try:
        if env_id.startswith("ALE/"):
            gym.register_envs(importlib.import_module("ale_py"))
        return gym.spec(env_id)
    except ImportError as error:
        raise UnknownSimulator(
            f"'{name}' needs a package that is missing: {error}; install it next to farsim", name
        ) from error
    except gym.error.Error as error:
        raise UnknownSimulator(f"Gymnasium does not offer '{env_id}': {error}", name) from error


def _look_here() -> None:
    """Lets modules in the working directory be imported."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _import(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    _look_here()
    try:
        target = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise UnknownSimulator(
            f"no module '{module_name}' here ({os.getcwd()}) or installed", path
        ) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [key for key in vars(target) if not key.startswith("_")]
            raise UnknownSimulator(
                f"'{module_name}' has no '{attribute}'{option_values.nearest(part, public)}", path
            )
        target = getattr(target, part)
    return target
