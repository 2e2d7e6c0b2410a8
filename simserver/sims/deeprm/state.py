"""An environment's state as bytes: a header in JSON, then its row of every array, raw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings

_FORMAT = "farsim-deeprm-state"
_VERSION = 1

Arrays = Mapping[str, NDArray[Any]]


def dump(settings: Settings, arrays: Arrays, env: int) -> bytes:
    """One environment's row of every array, and what they belong to."""
    rows = [np.ascontiguousarray(array[env]).tobytes() for array in arrays.values()]
    return b"".join([json.dumps(_header(settings, arrays)).encode(), b"\n", *rows])


def parse(settings: Settings, arrays: Arrays, data: bytes) -> dict[str, NDArray[Any]]:
    """The rows that ``dump`` wrote, by name.

    Raises:
        ValueError: the bytes are no state of a simulator with these settings.
    """
    first, _, body = data.partition(b"\n")
    _check_header(first, _header(settings, arrays))
    sizes = [array.dtype.itemsize * int(np.prod(array.shape[1:])) for array in arrays.values()]
    if len(body) != sum(sizes):
        raise ValueError(f"the saved state has {len(body)} bytes of data, not {sum(sizes)}")
    values, start = {}, 0
    for (name, array), size in zip(arrays.items(), sizes, strict=True):
        part = body[start : start + size]
        if array.dtype == np.bool_ and part.strip(b"\0\1"):
            raise ValueError(f"'{name}' in the saved state is not all 0 and 1")
        values[name] = np.frombuffer(part, array.dtype).reshape(array.shape[1:])
        start += size
    _check_indices(settings, values)
    return values


def _header(settings: Settings, arrays: Arrays) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "settings": settings.fingerprint(),
        "arrays": [[name, array.dtype.str, *array.shape[1:]] for name, array in arrays.items()],
    }


def _check_header(line: bytes, own: Mapping[str, Any]) -> None:
    try:
        saved = json.loads(line)
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise ValueError("these bytes are no saved state of DeepRM")
    if saved.get("version") != _VERSION:
        raise ValueError(
            f"the saved state has version {saved.get('version')} and this simulator reads "
            f"{_VERSION}: load it with the release that saved it"
        )
    settings = saved.get("settings")
    if settings != own["settings"]:
        kept = settings if isinstance(settings, dict) else {}
        names = [name for name, value in own["settings"].items() if kept.get(name) != value]
        raise ValueError(
            f"the state was saved with other settings ({', '.join(names)}): open the simulator "
            "with the same options"
        )
    if saved.get("arrays") != own["arrays"]:
        raise ValueError("the saved state does not have the arrays of this simulator")


def _check_indices(settings: Settings, values: Arrays) -> None:
    """Refuses numbers that would lead outside the environment's own rows."""
    bounds = {
        "arrived": settings.simu_len,
        "backlog": settings.backlog_size,
        "given_lengths": settings.max_job_len,
        "length": settings.max_job_len,
        "running_count": settings.simu_len,
        "running_jobs": settings.simu_len,
        "slot_job": settings.simu_len,
    }
    for name, most in bounds.items():
        value = values.get(name)
        if value is not None and (value.min() < 0 or value.max() > most):
            raise ValueError(f"'{name}' in the saved state is not between 0 and {most}")
    if values["backlog"] > values["arrived"]:
        raise ValueError("the saved state has more jobs in the backlog than have arrived")
