"""Rules for several kinds of simulators, and interface descriptions, from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from farsim.options import nearest
from simserver.gateway.bonsai.kind import Rules, RulesError

_KEYS = {field.name for field in fields(Rules)}


def read_rules(path: Path) -> dict[str, Rules]:
    """The rules for each kind in a YAML file: an object of ``Rules``' attributes for each name.

    ``interface`` is the path of an interface description, as seen from the file.

    Raises:
        RulesError: it says something else.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RulesError(f"{path} is no YAML: {error}", str(path)) from error
    if not isinstance(document, Mapping) or not document:
        raise RulesError(f"{path}: expected the rules for each kind of simulator, by name")
    return {str(name): _rules(path, str(name), given) for name, given in document.items()}


def _rules(path: Path, name: str, given: Any) -> Rules:
    if not isinstance(given, Mapping):
        raise RulesError(f"{path}: '{name}' needs rules, such as reward: ...", name)
    for key in given:
        if key not in _KEYS:
            raise RulesError(
                f"{path}: '{name}' has no rule '{key}'{nearest(str(key), _KEYS)}", name
            )
    values = dict(given)
    wanted = {"episode_steps": int, "observe": list, "options": Mapping, "interface": str}
    for key, value in values.items():
        if not isinstance(value, wanted.get(key, (str, int, float))):
            raise RulesError(f"{path}: {key} of '{name}' can not be {value!r}", name)
    for key in ("reward", "terminal"):
        if key in values:
            values[key] = str(values[key])
    if "observe" in values:
        values["observe"] = tuple(map(str, values["observe"]))
    if "interface" in values:
        values["interface"] = read_interface(path.parent / values["interface"])
    return Rules(**values)


def read_interface(path: Path) -> Mapping[str, Any]:
    """An interface description: ``name`` and ``description``, as simulators send them.

    Raises:
        RulesError: the file has none.
    """
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RulesError(f"{path} is no interface description: {error}", str(path)) from error
    if not isinstance(document, dict) or not document.get("name"):
        raise RulesError(f"{path}: expected an object with a name and a description", str(path))
    return document
