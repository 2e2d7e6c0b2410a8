"""Making arrays exactly what a space asks for, without ever changing a value silently."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from farsim import tensors
from farsim.spaces.kinds import invalid


def fit(values: Any, dtype: np.dtype[Any], shape: tuple[int, ...], path: str) -> NDArray[Any]:
    """``values`` as an array of exactly ``dtype`` and ``shape``; no copy if it is one already.

    Integers become another type of integer if every one of them fits, and floats of any size if
    none of them becomes infinite; bools become integers, and both become floats.

    Raises:
        InvalidTensor: another shape, or values that ``dtype`` cannot hold.
    """
    array = values if isinstance(values, np.ndarray) else as_array(values, path)
    if array.shape != shape:
        raise invalid(
            path,
            f"expected {tensors.describe(dtype, shape)}, "
            f"found {tensors.describe(array.dtype, array.shape)}",
        )
    return array if array.dtype == dtype else _cast(array, dtype, path)


def as_array(values: Any, path: str) -> NDArray[Any]:
    """``np.asarray``, with a typed error for what is no array."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        found = type(values).__name__
        raise invalid(path, f"expected an array, found {found}: {error}") from error


def _cast(array: NDArray[Any], dtype: np.dtype[Any], path: str) -> NDArray[Any]:
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
            raise invalid(
                path,
                f"expected values that fit {dtype.name}, "
                f"found {array.dtype.name} from {array.min()} to {array.max()}",
            )
        return array.astype(dtype)
    if array.dtype.kind in "iuf" and dtype.kind == "f":
        try:
            with np.errstate(over="raise"):
                return array.astype(dtype)
        except FloatingPointError:
            raise invalid(
                path,
                f"expected values that fit {dtype.name}, "
                f"found {array.dtype.name} beyond {np.finfo(dtype).max}",
            ) from None
    raise invalid(path, f"expected {dtype.name}, found {array.dtype.name}; convert it first")
