"""Values that a JSON schema describes, as members of spaces, and back."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from farsim.errors import InvalidOption, SimulatorFault, Unsupported
from simserver.adapters import settings

Schema = Mapping[str, Any]
Ranges = Mapping[str, tuple[float, float]]


class Field(abc.ABC):
    """One value of a known form.

    Attributes:
        space: of the value.
    """

    space: Space[Any]

    @abc.abstractmethod
    def read(self, value: Any) -> Any:
        """A member of ``space`` from what came as JSON; TypeError or ValueError if it is none."""

    @abc.abstractmethod
    def write(self, member: Any) -> Any:
        """What to send as JSON for a member of ``space``."""


class Choice(Field):
    """One of several values: an enumeration, or yes and no."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self.space = Discrete(len(values))

    def read(self, value: Any) -> Any:
        return np.int64(self._values.index(value))

    def write(self, member: Any) -> Any:
        return self._values[int(member)]


class Whole(Field):
    """A whole number between bounds."""

    def __init__(self, low: float, high: float) -> None:
        self.space = Discrete(int(high) - int(low) + 1, start=int(low))

    def read(self, value: Any) -> Any:
        return np.int64(value)

    def write(self, member: Any) -> Any:
        return int(member)


class Numbers(Field):
    """A number or an array of numbers, of one shape for good."""

    def __init__(self, low: float, high: float, shape: tuple[int, ...], is_whole: bool) -> None:
        dtype: Any = np.int64 if is_whole else np.float32
        bounds = np.iinfo(np.int64) if is_whole else None
        # Not infinite, which whole numbers can not be.
        least = low if bounds is None or np.isfinite(low) else bounds.min
        most = high if bounds is None or np.isfinite(high) else bounds.max
        self.space = Box(least, most, shape, dtype)

    def read(self, value: Any) -> Any:
        array = np.asarray(value, self.space.dtype)
        if array.shape != self.space.shape:
            raise ValueError(f"has shape {array.shape}, and not {self.space.shape} as at first")
        return array

    def write(self, member: Any) -> Any:
        return np.asarray(member).tolist()


class Words(Field):
    """A text to send."""

    def __init__(self) -> None:
        self.space = settings.PRINTABLE

    def read(self, value: Any) -> Any:
        return str(value)

    def write(self, member: Any) -> Any:
        return str(member)


class Members(Field):
    """Several values by name; a single one stands for itself."""

    def __init__(self, members: dict[str, Field]) -> None:
        self._members = members
        self._only = next(iter(members)) if len(members) == 1 else ""
        self.space = (
            members[self._only].space
            if self._only
            else Dict({name: member.space for name, member in members.items()})
        )

    def read(self, value: Any) -> Any:
        found = {name: _read(name, member, value) for name, member in self._members.items()}
        return found[self._only] if self._only else found

    def write(self, member: Any) -> Any:
        values = {self._only: member} if self._only else member
        return {name: field.write(values[name]) for name, field in self._members.items()}


def action(schema: Schema, ranges: Ranges) -> Members:
    """What to send for an action; values with a default that no space describes are left out.

    Args:
        schema: of an object.
        ranges: bounds of values that say none, by their names.

    Raises:
        Unsupported: a value that has to be sent has no space.
    """
    members: dict[str, Field] = {}
    needed = set(schema.get("required", ()))
    for name, part in schema.get("properties", {}).items():
        if name == "metadata" or "const" in part:
            continue
        field = _field(part, schema, name, ranges, None, is_action=True)
        if field is not None:
            members[name] = field
        elif name in needed:
            raise Unsupported(
                f"the action's '{name}' has no space: a whole number needs bounds (--option "
                f"ranges={name}=LOW:HIGH), an array a fixed length; {dict(part)}",
                name,
            )
    if not members:
        raise Unsupported("the action has no value that a space describes")
    return Members(members)


def observation(schema: Schema, ranges: Ranges, sample: Mapping[str, Any]) -> Members:
    """What to read from an observation; texts and what has no fixed shape are left out.

    Args:
        schema: of an object.
        ranges: bounds of values that say none, by their names.
        sample: an observation: arrays have its lengths for good.

    Raises:
        Unsupported: nothing in it has a space.
    """
    members: dict[str, Field] = {}
    for name, part in schema.get("properties", {}).items():
        if name in ("metadata", "done", "reward") or sample.get(name) is None:
            continue
        field = _field(part, schema, name, ranges, sample[name], is_action=False)
        if field is not None:
            members[name] = field
    if not members:
        raise Unsupported("the observation has no number, choice or array of numbers")
    return Members(members)


def known(ranges: Ranges, *schemas: Schema) -> None:
    """Raises ``InvalidOption`` if a range is for no value at all."""
    names = {name for schema in schemas for name in schema.get("properties", {})}
    for name in ranges:
        if name.partition(".")[0] not in names:
            raise InvalidOption(
                f"option 'ranges': no value '{name}'; known: {', '.join(sorted(names))}", "ranges"
            )


def _read(name: str, field: Field, value: Any) -> Any:
    try:
        return field.read(value[name])
    except (KeyError, TypeError, ValueError) as error:
        raise SimulatorFault(f"the observation's '{name}': {error}", name) from error


def _field(
    part: Schema, root: Schema, name: str, ranges: Ranges, sample: Any, *, is_action: bool
) -> Field | None:
    """The field that ``part`` of ``root`` describes; None if no space does."""
    part = _resolved(part, root)
    if "enum" in part:
        return Choice(list(part["enum"]))
    kind = part.get("type")
    if kind == "boolean":
        return Choice([False, True])
    if kind in ("integer", "number"):
        low, high = ranges.get(name, _bounds(part))
        whole = kind == "integer"
        if whole and np.isfinite(low) and np.isfinite(high):
            return Whole(low, high)
        return None if whole and is_action else Numbers(low, high, (), whole)
    if kind == "string":
        return Words() if is_action else None
    if kind == "array":
        return _array(part, root, name, ranges, sample)
    if kind == "object" and part.get("properties"):
        found = {
            key: _field(
                each,
                root,
                f"{name}.{key}",
                ranges,
                sample.get(key) if isinstance(sample, Mapping) else None,
                is_action=is_action,
            )
            for key, each in part["properties"].items()
        }
        members = {key: field for key, field in found.items() if field is not None}
        return Members(members) if members and len(members) > 1 else None
    return None


def _array(part: Schema, root: Schema, name: str, ranges: Ranges, sample: Any) -> Field | None:
    shape: list[int] = []
    while part.get("type") == "array":
        length = part.get("minItems")
        if length is None or length != part.get("maxItems"):
            length = len(sample) if isinstance(sample, list) and sample else None
        if length is None:
            return None
        shape.append(int(length))
        part = _resolved(part.get("items", {}), root)
        sample = sample[0] if isinstance(sample, list) and sample else None
    if part.get("type") == "boolean":
        return Numbers(0, 1, tuple(shape), True)
    if part.get("type") not in ("integer", "number"):
        return None
    low, high = ranges.get(name, _bounds(part))
    return Numbers(low, high, tuple(shape), part["type"] == "integer")


def _bounds(part: Schema) -> tuple[float, float]:
    step = 1 if part.get("type") == "integer" else 0
    low, high = part.get("minimum", -np.inf), part.get("maximum", np.inf)
    low = max(low, part.get("exclusiveMinimum", -np.inf) + step)
    high = min(high, part.get("exclusiveMaximum", np.inf) - step)
    return low, high


def _resolved(part: Schema, root: Schema) -> Schema:
    """``part`` without references, and without the choice of null beside one other kind."""
    while "$ref" in part:
        part = root.get("$defs", {}).get(str(part["$ref"]).rpartition("/")[2], {})
    for several in ("anyOf", "allOf", "oneOf"):
        kinds = [each for each in part.get(several, ()) if each.get("type") != "null"]
        if len(kinds) == 1:
            return _resolved({**kinds[0]}, root)
        numbers = {each.get("type") for each in kinds}
        if kinds and numbers <= {"integer", "number"}:
            return {"type": "number"}
    return part
