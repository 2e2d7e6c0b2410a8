"""Training files: RLlib's settings, the simulator's options and when to stop, in YAML.

A section is a method of RLlib's ``AlgorithmConfig``, and its keys are the method's parameters::

    algo: PPO
    options: {new_job_rate: 0.7}
    policies: group
    stop: {steps: 500_000}
    connection: {resume_seconds: 5}
    sampling: {splits: 2}
    training: {lr: 3e-4, gamma: 0.99}
    env_runners: {num_envs_per_env_runner: 64}
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from agent.training import connection, sampling
from agent.training.policies import InvalidPolicies, PolicyWish, check_wish
from farsim.errors import FarsimError, InvalidOption, UnknownOption
from farsim.options import nearest

#: Methods of ``AlgorithmConfig`` that make sense here.
SECTIONS = (
    "training",
    "env_runners",
    "learners",
    "rl_module",
    "multi_agent",
    "environment",
    "reporting",
    "fault_tolerance",
    "debugging",
    "resources",
    "experimental",
)
STOP_KEYS = ("return", "steps", "time")

#: Settings that follow from the command line, and what to use instead.
_OWN = {
    ("environment", "env"): "the simulator is an argument of farsim train",
    ("environment", "env_config"): "use the section 'options', or --option",
    ("environment", "observation_space"): "the simulator says what its spaces are",
    ("environment", "action_space"): "the simulator says what its spaces are",
    (
        "env_runners",
        "env_runner_cls",
    ): "environments are remote, and have a runner of their own",
    ("env_runners", "gym_env_vectorize_mode"): "remote environments come in batches",
    ("rl_module", "rl_module_spec"): "use model_config",
    ("multi_agent", "policies"): "use 'policies' at the top, or --policies",
    ("multi_agent", "policy_mapping_fn"): "use 'policies: module:function' at the top",
}


class InvalidConfiguration(FarsimError, ValueError):
    """A training file that cannot be used; says where and why."""


@dataclass(frozen=True)
class Setting:
    """A value, and where it is from: "deeprm.yaml, line 7"."""

    value: Any
    place: str


@dataclass(frozen=True)
class TrainingFile:
    """What a training file says.

    Attributes:
        algo: RLlib's name of the algorithm; empty if the file has none.
        options: of the simulator, by name.
        stop: the conditions, by ``STOP_KEYS``.
        sections: RLlib's settings, by section and name.
        policies: who decides for whom, as ``map_policies`` takes it; None if the file has none.
        connection: fields of ``ConnectionOptions``, by name.
        sampling: how env runners sample, by name.
    """

    algo: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, float] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    policies: PolicyWish | None = None
    connection: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes "3e-4", without a point, for text; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: Path) -> TrainingFile:
    """Reads a training file.

    Raises:
        InvalidConfiguration: there is no such file, it is no YAML, or it has unknown keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {path}: {error.strerror}", str(path)) from error
    return parse(text, path.name)


def parse(text: str, name: str) -> TrainingFile:
    """A training file from its text; ``name`` is what to call it in errors."""
    try:
        return _read(text, name)
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"{name} is no YAML: {error}", name) from error


def _read(text: str, name: str) -> TrainingFile:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return TrainingFile()
        top = _members(loader, root, name, "a training file")
        known = ("algo", "options", "policies", "stop", "connection", "sampling", *SECTIONS)
        for key, (_, place) in top.items():
            if key not in known:
                raise InvalidConfiguration(f"{place}: no section '{key}'{nearest(key, known)}", key)
        sections = {}
        for section in SECTIONS:
            if section in top:
                node, _ = top[section]
                members = _members(loader, node, name, f"section '{section}'")
                sections[section] = {
                    key: Setting(loader.construct_object(value, deep=True), place)
                    for key, (value, place) in members.items()
                }
        return TrainingFile(
            algo=str(_value(loader, top, "algo") or ""),
            options=_plain(loader, top, "options", name),
            stop=_stop(loader, top, name),
            sections=sections,
            policies=_policies(loader, top),
            connection=_checked(loader, top, name, "connection", connection.check),
            sampling=_checked(loader, top, name, "sampling", sampling.check),
        )
    finally:
        loader.dispose()


def _members(
    loader: _Loader, node: yaml.Node, name: str, what: str
) -> dict[str, tuple[yaml.Node, str]]:
    """The values of a mapping with their places, by key."""
    place = f"{name}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InvalidConfiguration(f"{place}: {what} consists of 'name: value' lines", name)
    members: dict[str, tuple[yaml.Node, str]] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        place = f"{name}, line {key_node.start_mark.line + 1}"
        if key in members:
            raise InvalidConfiguration(f"{place}: '{key}' is there twice", key)
        members[key] = (value_node, place)
    return members


def _value(loader: _Loader, top: Mapping[str, tuple[yaml.Node, str]], key: str) -> Any:
    return loader.construct_object(top[key][0], deep=True) if key in top else None


def _policies(loader: _Loader, top: Mapping[str, tuple[yaml.Node, str]]) -> PolicyWish | None:
    if "policies" not in top:
        return None
    node, place = top["policies"]
    try:
        return check_wish(loader.construct_object(node, deep=True), place)
    except InvalidPolicies as error:
        raise InvalidConfiguration(error.message, error.subject) from error


def _plain(
    loader: _Loader, top: Mapping[str, tuple[yaml.Node, str]], key: str, name: str
) -> dict[str, Any]:
    if key not in top:
        return {}
    members = _members(loader, top[key][0], name, f"section '{key}'")
    return {name: loader.construct_object(node, deep=True) for name, (node, _) in members.items()}


def _stop(loader: _Loader, top: Mapping[str, tuple[yaml.Node, str]], name: str) -> dict[str, float]:
    if "stop" not in top:
        return {}
    stop = {}
    for key, (node, place) in _members(loader, top["stop"][0], name, "section 'stop'").items():
        if key not in STOP_KEYS:
            raise InvalidConfiguration(
                f"{place}: 'stop' has no '{key}'{nearest(key, STOP_KEYS)}", key
            )
        value = loader.construct_object(node, deep=True)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidConfiguration(f"{place}: '{key}' is a number, not {value!r}", key)
        stop[key] = value
    return stop


def _checked(
    loader: _Loader,
    top: Mapping[str, tuple[yaml.Node, str]],
    name: str,
    section: str,
    check: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """The plain values of a section, each of which ``check`` has let pass."""
    if section not in top:
        return {}
    members = _members(loader, top[section][0], name, f"section '{section}'")
    values = {}
    for key, (node, place) in members.items():
        values[key] = loader.construct_object(node, deep=True)
        try:
            check({key: values[key]})
        except (InvalidOption, UnknownOption) as error:
            raise InvalidConfiguration(f"{place}: {error.message}", key) from error
    return values


def settings(config: AlgorithmConfig, section: str) -> set[str]:
    """The names that a section takes for this algorithm."""
    names = set()
    for cls in type(config).__mro__:
        if section in vars(cls):
            for parameter in inspect.signature(vars(cls)[section]).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY and (
                    parameter.default != DEPRECATED_VALUE
                ):
                    names.add(parameter.name)
    return {name for name in names if (section, name) not in _OWN}


def apply(config: AlgorithmConfig, sections: Mapping[str, Mapping[str, Setting]]) -> None:
    """Sets what the sections say.

    Raises:
        InvalidConfiguration: a name that this algorithm does not know, or a value that RLlib
            does not take.
    """
    for section, members in sections.items():
        known = settings(config, section)
        for key, setting in members.items():
            if key not in known:
                raise InvalidConfiguration(
                    f"{setting.place}: {_unknown(config, section, key, known)}", key
                )
        for key, setting in members.items():
            try:
                getattr(config, section)(**{key: setting.value})
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise InvalidConfiguration(f"{setting.place}: {key}: {error}", key) from error


def _unknown(config: AlgorithmConfig, section: str, key: str, known: Iterable[str]) -> str:
    algo = type(config).__name__.removesuffix("Config")
    if (section, key) in _OWN:
        return f"'{key}' cannot be set: {_OWN[section, key]}"
    elsewhere = [name for name in SECTIONS if key in settings(config, name)]
    hint = f"; it belongs to section '{elsewhere[0]}'" if elsewhere else nearest(key, known)
    return f"section '{section}' of {algo} has no '{key}'{hint}"
