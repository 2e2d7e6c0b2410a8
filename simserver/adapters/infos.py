"""Gymnasium's info dictionaries as the columns of a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from simserver.simulator import Info

logger = logging.getLogger(__name__)

_told: set[str] = set()


def columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, Info]:
    """One dictionary a row, to one ``Info`` a name.

    Numbers, booleans, arrays of them and strings are carried; nested dictionaries are joined
    with "/". Whatever else there is stays behind, and the log says so once for each name.
    """
    if not any(infos):
        return {}
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for row, info in enumerate(infos):
        for name, value in _flatten(info):
            positions, values = found.setdefault(name, ([], []))
            positions.append(row)
            values.append(value)
    result = {}
    for name, (positions, values) in found.items():
        column = _column(values)
        if column is None:
            _tell(name, values[0])
            continue
        rows = None if len(positions) == len(infos) else np.array(positions, np.int64)
        result[name] = Info(column, rows)
    return result


def vector_columns(infos: Mapping[str, Any], count: int) -> dict[str, Info]:
    """The infos of a vector environment: an array and a mask ``_name`` for each name."""
    result = {}
    for name, value in _flatten_vector(infos):
        values, present = value
        rows = None if present is None or present.all() else np.flatnonzero(present)
        index = np.arange(count) if rows is None else rows
        if not len(index):
            continue
        column = _column([values[i] for i in index])
        if column is None:
            _tell(name, values[index[0]])
            continue
        result[name] = Info(column, rows)
    return result


def _flatten(info: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in info.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _flatten_vector(
    infos: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, np.ndarray | None]]]:
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from _flatten_vector(value, f"{prefix}{key}/")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{key}", (value, infos.get(f"_{key}"))


def _column(values: list[Any]) -> np.ndarray | list[str] | None:
    if all(isinstance(value, str) for value in values):
        return values
    try:
        column = np.array(values)
    except ValueError:
        return None
    return column if column.dtype.kind in "biuf" else None


def _tell(name: str, value: Any) -> None:
    if name not in _told:
        _told.add(name)
        logger.warning(
            "info '%s' stays on this side: %s, or shapes that differ between environments, can "
            "not be carried; use numbers, arrays of one shape, or strings",
            name,
            type(value).__name__,
        )
