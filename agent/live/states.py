"""A recurrent policy's memory as opaque bytes: arrays and a skeleton, nothing that can execute."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from farsim import tensors
from farsim.errors import FarsimError, InvalidArgument, Unsupported
from farsim.v1 import tensor_pb2

#: How deep containers may lie in one another.
_MAX_DEPTH = 16


def to_bytes(policy: str, state: Any) -> bytes:
    """``state`` for the wire, bound to the policy of that name.

    Args:
        policy: whose memory it is.
        state: nested dicts, lists and tuples of NumPy arrays, numbers, texts and None.

    Raises:
        Unsupported: it holds something else.
    """
    arrays: list[tensor_pb2.Tensor] = []
    skeleton = json.dumps([policy, _flatten(state, arrays)], separators=(",", ":"))
    head = tensors.pack(np.frombuffer(skeleton.encode(), np.uint8))
    return tensor_pb2.Value(tensors=[head, *arrays]).SerializeToString()


def from_bytes(policy: str, data: bytes) -> Any:
    """What ``to_bytes`` was given.

    Raises:
        InvalidArgument: the bytes are none of its, or of another policy.
    """
    wrong = InvalidArgument(
        f"this is no state that policy '{policy}' gave: send back what ActReply.state was", "state"
    )
    try:
        head, *arrays = tensor_pb2.Value.FromString(data).tensors
        owner, skeleton = json.loads(bytes(tensors.unpack(head)))
        if owner != policy:
            raise wrong
        return _build(skeleton, [tensors.unpack(array) for array in arrays])
    except (DecodeError, FarsimError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise wrong from error


def same_form(one: Any, other: Any) -> bool:
    """Whether two states have the same structure, and arrays of the same dtypes and shapes."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_form(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_form, one, other))
    return True


def _flatten(state: Any, arrays: list[tensor_pb2.Tensor], depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise Unsupported(f"a policy's state nests deeper than {_MAX_DEPTH}")
    if state is None or isinstance(state, (bool, int, float, str)):
        return {"v": state}
    if isinstance(state, (np.ndarray, np.generic)):
        arrays.append(tensors.pack(np.asarray(state)))
        return {"a": len(arrays) - 1}
    if isinstance(state, dict) and all(isinstance(name, str) for name in state):
        inside = {name: _flatten(member, arrays, depth + 1) for name, member in state.items()}
        return {"d": inside}
    if isinstance(state, (list, tuple)):
        kind = "l" if isinstance(state, list) else "t"
        return {kind: [_flatten(member, arrays, depth + 1) for member in state]}
    raise Unsupported(f"a policy's state holds a {type(state).__name__}, which cannot travel")


def _build(skeleton: Any, arrays: list[Any]) -> Any:
    if not isinstance(skeleton, dict):
        raise TypeError(type(skeleton).__name__)
    ((kind, content),) = skeleton.items()
    if kind == "a":
        # The policy may work in place, and the bytes belong to the message.
        return arrays[content].copy()
    if kind == "d":
        return {name: _build(member, arrays) for name, member in content.items()}
    if kind in ("l", "t"):
        members = [_build(member, arrays) for member in content]
        return members if kind == "l" else tuple(members)
    if kind == "v" and not isinstance(content, (dict, list)):
        return content
    raise ValueError(kind)
