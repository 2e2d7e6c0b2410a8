"""A world's state as bytes: a header in JSON, then its numbers and its random stream, raw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMAT = "farsim-particle-state"
_VERSION = 1

#: By name, worlds last.
Arrays = Mapping[str, NDArray[Any]]


def dump(settings: Mapping[str, Any], arrays: Arrays, env: int, stream: bytes) -> bytes:
    """One world's numbers, its random stream, and what they belong to."""
    header = json.dumps(_header(settings, arrays)).encode()
    columns = [np.ascontiguousarray(array[..., env]).tobytes() for array in arrays.values()]
    return b"".join([header, b"\n", *columns, stream])


def parse(
    settings: Mapping[str, Any], arrays: Arrays, data: bytes, stream_size: int
) -> tuple[dict[str, NDArray[Any]], bytes]:
    """The numbers that ``dump`` wrote, by name, and the stream.

    Raises:
        ValueError: the bytes are no state of a simulator with these settings.
    """
    first, _, body = data.partition(b"\n")
    _check_header(first, _header(settings, arrays))
    shapes = {name: array.shape[:-1] for name, array in arrays.items()}
    sizes = {
        name: arrays[name].dtype.itemsize * int(np.prod(shape)) for name, shape in shapes.items()
    }
    expected = sum(sizes.values()) + stream_size
    if len(body) != expected:
        raise ValueError(f"the saved state has {len(body)} bytes of data, not {expected}")
    values, start = {}, 0
    for name, shape in shapes.items():
        part = body[start : start + sizes[name]]
        values[name] = np.frombuffer(part, arrays[name].dtype).reshape(shape)
        if not np.isfinite(values[name]).all():
            raise ValueError(f"'{name}' in the saved state is not all finite")
        start += sizes[name]
    return values, body[start:]


def _header(settings: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "settings": dict(settings),
        "arrays": [[name, array.dtype.str, *array.shape[:-1]] for name, array in arrays.items()],
    }


def _check_header(line: bytes, own: Mapping[str, Any]) -> None:
    try:
        saved = json.loads(line)
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise ValueError("these bytes are no saved state of Particle")
    if saved.get("version") != _VERSION:
        raise ValueError(
            f"the saved state has version {saved.get('version')} and this simulator reads "
            f"{_VERSION}: load it with the release that saved it"
        )
    settings = saved.get("settings")
    if settings != own["settings"]:
        kept = settings if isinstance(settings, dict) else {}
        names = [
            name
            for name in sorted(kept.keys() | own["settings"].keys())
            if kept.get(name) != own["settings"].get(name)
        ]
        raise ValueError(
            f"the state was saved with other settings ({', '.join(names)}): open the simulator "
            "with the same options"
        )
    if saved.get("arrays") != own["arrays"]:
        raise ValueError("the saved state does not have the arrays of this simulator")
