"""The types in a Bonsai simulator's interface description, as Gymnasium spaces.

A description has a ``Struct`` each for ``state``, ``action`` and ``config``. The types, as the
samples of microsoft-bonsai-api and its interface schema have them::

    {"category": "Number", "start": 0, "stop": 10, "step": 1}
    {"category": "Number", "namedValues": [{"name": "open", "value": 1}, ...]}
    {"category": "String", "values": ["red", "green"]}
    {"category": "Array", "type": <type>, "length": 3}
    {"category": "Struct", "fields": [{"name": "speed", "type": <type>}, ...]}
"""

from __future__ import annotations

import abc
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from farsim.errors import FarsimError

#: A range with a step of more values than this is a Box whose values are put on the grid.
_MOST_CHOICES = 1024
#: How far beyond a bound a value may be, relative to the bound, and count as on it.
_ROUNDING = 1e-6
_LONGEST_TEXT = 1024


class SchemaError(FarsimError, ValueError):
    """An interface description, or a value that should be as one says, that can not be used."""


class Type(abc.ABC):
    """What a value looks like in JSON and in a space.

    Attributes:
        space: its values here.
        comment: what the description says of it; empty for nothing.
    """

    space: Space[Any]
    comment: str = ""

    @abc.abstractmethod
    def from_json(self, value: Any, path: str) -> Any:
        """A member of ``space``.

        Raises:
            SchemaError: ``value`` is none; names ``path``.
        """

    @abc.abstractmethod
    def to_json(self, value: Any) -> Any:
        """What a member of ``space`` is in JSON."""


class Number(Type):
    """A number, whole or not, between bounds that may be infinite.

    Args:
        low: the lowest.
        high: the highest.
        step: between neighbouring values from ``low`` on; 0 for any value.
        dtype: of the space; whole numbers are int64 whatever it is.
    """

    space: spaces.Box

    def __init__(self, low: float, high: float, step: float, dtype: type[np.floating[Any]]) -> None:
        self.low, self.high, self.step = low, high, step
        self.whole = step >= 1 and all(float(x).is_integer() for x in (low, high, step))
        self.dtype = np.int64 if self.whole else dtype
        self.space = spaces.Box(
            int(low) if self.whole else low, int(high) if self.whole else high, (), self.dtype
        )

    def from_json(self, value: Any, path: str) -> Any:
        if not isinstance(value, (int, float)) or math.isnan(value):
            raise SchemaError(f"{path} is {value!r}, not a number", path)
        if self.whole and not float(value).is_integer():
            raise SchemaError(f"{path} is {value!r}, not a whole number", path)
        if not self.low <= value <= self.high:
            bound = self.low if value < self.low else self.high
            if abs(value - bound) > _ROUNDING * max(1.0, abs(bound)):
                raise SchemaError(
                    f"{path} is {value!r}, outside of {self.low:g} to {self.high:g}, its range in "
                    "the interface description",
                    path,
                )
            value = bound
        return np.asarray(value, self.space.dtype)

    def to_json(self, value: Any) -> int | float:
        number = float(value)
        if self.step and math.isfinite(self.low):
            number = self.low + round((number - self.low) / self.step) * self.step
        number = min(max(number, self.low), self.high)
        return int(number) if self.whole else number


class Choice(Type):
    """One of some values, each with a name.

    Members of the space are the values themselves if these are consecutive whole numbers, and
    their positions otherwise.
    """

    def __init__(self, values: Sequence[Any], names: Sequence[str] = ()) -> None:
        self.values = list(values)
        self.names = list(names) or [str(value) for value in values]
        first = self.values[0]
        consecutive = isinstance(first, (int, float)) and float(first).is_integer()
        consecutive = consecutive and self.values == [first + i for i in range(len(self.values))]
        self._start = int(first) if consecutive else 0
        self.space = spaces.Discrete(len(self.values), start=self._start)

    def from_json(self, value: Any, path: str) -> Any:
        if value not in self.values:
            raise SchemaError(f"{path} is {value!r}, not one of {self.values}", path)
        return np.int64(self.values.index(value) + self._start)

    def to_json(self, value: Any) -> Any:
        return self.values[int(value) - self._start]


class String(Type):
    """Any text."""

    def __init__(self) -> None:
        self.space = spaces.Text(_LONGEST_TEXT, min_length=0)

    def from_json(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or value not in self.space:
            raise SchemaError(f"{path} is {value!r}, not a text of letters and digits", path)
        return value

    def to_json(self, value: Any) -> str:
        return str(value)


class Array(Type):
    """A fixed number of values of one type: a Box or a MultiDiscrete if they can be one."""

    def __init__(self, item: Type, length: int) -> None:
        self.item, self.length = item, length
        self._stacks = True
        match item.space:
            case spaces.Box() as box:
                low, high = (np.stack([bound] * length) for bound in (box.low, box.high))
                self.space = spaces.Box(low, high, dtype=box.dtype)  # type: ignore[arg-type]
            case spaces.Discrete() as one:
                start = [int(one.start)] * length
                self.space = spaces.MultiDiscrete([int(one.n)] * length, start=start)
            case other:
                self._stacks = False
                self.space = spaces.Tuple([other] * length)

    def from_json(self, value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != self.length:
            found = f"{len(value)} values" if isinstance(value, list) else repr(value)
            raise SchemaError(f"{path} is {found}, not a list of {self.length}", path)
        items = [self.item.from_json(each, f"{path}[{i}]") for i, each in enumerate(value)]
        return np.stack(items).astype(self.space.dtype) if self._stacks else tuple(items)

    def to_json(self, value: Any) -> list[Any]:
        return [self.item.to_json(each) for each in value]


class Struct(Type):
    """Named values."""

    def __init__(self, fields: Mapping[str, Type]) -> None:
        self.fields = dict(fields)
        self.space = spaces.Dict(OrderedDict((n, field.space) for n, field in fields.items()))

    def from_json(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise SchemaError(f"{path} is {value!r}, not an object", path)
        missing = [name for name in self.fields if name not in value]
        if missing:
            raise SchemaError(
                f"{path} has no '{missing[0]}', which its interface description has", path
            )
        return {
            name: field.from_json(value[name], f"{path}.{name}")
            for name, field in self.fields.items()
        }

    def to_json(self, value: Any) -> dict[str, Any]:
        return {name: field.to_json(value[name]) for name, field in self.fields.items()}


def read(document: Any, role: str) -> Struct:
    """The struct that a description has for ``role``: "state", "action" or "config".

    Raises:
        SchemaError: it can not be used; says where and why.
    """
    read_type = _read(document, role, role)
    if not isinstance(read_type, Struct):
        raise SchemaError(f"{role} has to be a Struct, not {document!r:.80}", role)
    return read_type


def _read(document: Any, path: str, role: str) -> Type:
    if not isinstance(document, Mapping):
        raise SchemaError(f"{path}: expected an object with a category, not {document!r:.80}", path)
    match document.get("category"):
        case "Number":
            made = _number(document, path, role)
        case "String":
            values = document.get("values")
            made = Choice(values) if values else String()
        case "Array":
            length = document.get("length")
            if not isinstance(length, int) or length < 1:
                raise SchemaError(f"{path}: an Array needs a length, not {length!r}", path)
            made = Array(_read(document.get("type"), f"{path}[]", role), length)
        case "Struct":
            made = _struct(document, path, role)
        case category:
            raise SchemaError(
                f"{path}: the category is one of Number, String, Array and Struct, not "
                f"{category!r}",
                path,
            )
    made.comment = str(document.get("comment") or "")
    return made


def _struct(document: Mapping[str, Any], path: str, role: str) -> Struct:
    fields = document.get("fields")
    if not isinstance(fields, list):
        raise SchemaError(f"{path}: a Struct needs a list of fields, not {fields!r:.80}", path)
    read_fields = {}
    for field in fields:
        name = field.get("name") if isinstance(field, Mapping) else None
        if not isinstance(name, str) or not name or name in read_fields:
            raise SchemaError(f"{path}: each field needs a name of its own: {field!r:.80}", path)
        read_fields[name] = _read(field.get("type"), f"{path}.{name}", role)
    return Struct(read_fields)


def _number(document: Mapping[str, Any], path: str, role: str) -> Type:
    named = document.get("namedValues")
    try:
        if named:
            pairs = [(entry["value"], str(entry["name"])) for entry in named]
            return Choice(*zip(*sorted(pairs), strict=True))
        values = document.get("values")
        if values:
            return Choice(sorted(float(value) for value in values))
        low, high = (
            float(default if document.get(key) is None else document[key])
            for key, default in (("start", -math.inf), ("stop", math.inf))
        )
        step = float(document.get("step") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"{path}: {document!r:.120} is no type: {error}", path) from error
    if low > high or step < 0:
        raise SchemaError(f"{path}: no range from {low:g} to {high:g} in steps of {step:g}", path)
    if role == "action" and step and math.isfinite(high - low):
        count = math.floor((high - low) / step + 1e-9) + 1
        if count <= _MOST_CHOICES:
            return Choice([_plain(low + i * step) for i in range(count)])
    return Number(low, high, step, np.float32 if role == "action" else np.float64)


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
