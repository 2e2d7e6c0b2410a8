"""A deployment in one file: simulators, network, head and training, in YAML.

Every command of ``farsim deploy`` takes such a file, and its flags override what the file says.
Mistakes are found before anything is made, with the line and the nearest right name. The smallest
one, with everything else at its default::

    name: scheduling
    azure: {subscription: 0000-..., resource_group: rl, location: westeurope, workspace: rl}
    registry: {server: rl.azurecr.io}
    simulators:
      - {simulator: deeprm, replicas: 4, image: rl.azurecr.io/farsim-sim:1.0}
    head: {image: rl.azurecr.io/farsim-train:1.0}
    training: {simulator: deeprm, stop: {steps: 2_000_000}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deploy.schema import Deployment
from farsim.errors import FarsimError
from farsim.options import nearest


class InvalidDeployment(FarsimError, ValueError):
    """A deployment file that cannot be used; says each mistake with its line."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes "3e-4", without a point, for text; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Deployment:
    """Reads a deployment file.

    Args:
        path: of the file.
        overrides: what flags say, by dotted name: ``{"head.size": "Standard_NC6s_v3"}``.

    Raises:
        InvalidDeployment: there is no such file, it is no YAML, or it has mistakes; all are told.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidDeployment(f"cannot read {path}: {error.strerror}", str(path)) from error
    return parse(text, path.name, overrides)


def parse(text: str, name: str, overrides: Mapping[str, Any] | None = None) -> Deployment:
    """A deployment from its text; ``name`` is what to call the file in errors."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        said = {} if root is None else loader.construct_object(root, deep=True)
        twice = _twice(root)
    except yaml.YAMLError as error:
        raise InvalidDeployment(f"{name} is no YAML: {error}", name) from error
    finally:
        loader.dispose()
    if not isinstance(said, dict):
        raise InvalidDeployment(f"{name}: a deployment consists of 'name: value' lines", name)
    if twice is not None:
        key, line = twice
        raise InvalidDeployment(f"{name}, line {line}: '{key}' is there twice", key)
    for dotted, value in (overrides or {}).items():
        _set(said, dotted.split("."), value)
    try:
        return Deployment.model_validate(said)
    except ValidationError as error:
        flags = [tuple(dotted.split(".")) for dotted in overrides or {}]
        mistakes = [_mistake(detail, root, name, flags) for detail in error.errors()]
        raise InvalidDeployment("\n".join(mistakes), name) from error


def _set(said: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        inner = said.get(key)
        if not isinstance(inner, dict):
            inner = said[key] = {}
        said = inner
    said[path[-1]] = value


def _mistake(
    detail: ErrorDetails, root: yaml.Node | None, name: str, flags: Sequence[tuple[str, ...]]
) -> str:
    """One line: where, and what is wrong."""
    location = detail["loc"]
    flag = next((flag for flag in flags if location[: len(flag)] == flag), None)
    where = f"--set {'.'.join(flag)}" if flag else f"{name}, line {_line(root, location)}"
    key = location[-1] if location else ""
    inside = ".".join(str(part) for part in location[:-1])
    section = f"section '{inside}'" if inside else "a deployment"
    if detail["type"] == "extra_forbidden":
        return f"{where}: {section} has no '{key}'{nearest(str(key), _names(location[:-1]))}"
    if detail["type"] == "missing":
        return f"{where}: {section} needs '{key}'"
    path = ".".join(str(part) for part in location)
    said = detail["msg"].removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    return f"{where}: {path}: {said}" if path else f"{where}: {said}"


def _names(location: Sequence[int | str]) -> list[str]:
    """The keys that the section at ``location`` takes."""
    model: Any = Deployment
    for part in location:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    """The model in ``Model``, ``Model | None`` or ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(each) for each in getattr(annotation, "__args__", ())]
    return next((each for each in found if each is not None), None)


def _line(root: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line of the deepest part of ``location`` that the file has, from 1."""
    node, line = root, 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            members = {str(key.value): (key, value) for key, value in node.value}
            if part not in members:
                break
            key, node = members[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _twice(node: yaml.Node | None) -> tuple[str, int] | None:
    """A key that a mapping has twice, and the line of the second."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_twice, node.value)), None)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return str(key.value), key.start_mark.line + 1
            seen.add(key.value)
            inner = _twice(value)
            if inner is not None:
                return inner
    return None
