"""Writes ``tests/data/golden``: values beside the bytes that they are on the wire.

``python -m tests.farsim.golden`` writes the files anew; a change there is a change of the contract.
"""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium as gym
import numpy as np
from google.protobuf.json_format import MessageToDict
from gymnasium import spaces as kinds

from farsim import spaces, tensors
from farsim.v1 import tensor_pb2
from tests.servers import ROOT

FOLDER = ROOT / "tests" / "data" / "golden"

ARRAYS: dict[str, np.ndarray] = {
    "bool": np.array([True, False, True]),
    "uint8": np.array([0, 1, 255], np.uint8),
    "uint16": np.array([0, 258, 65535], np.uint16),
    "uint32": np.array([0, 16909060, 2**32 - 1], np.uint32),
    "uint64": np.array([0, 72623859790382856, 2**64 - 1], np.uint64),
    "int8": np.array([-128, -1, 127], np.int8),
    "int16": np.array([-32768, -2, 32767], np.int16),
    "int32": np.array([-(2**31), -2, 2**31 - 1], np.int32),
    "int64": np.array([-(2**63), -2, 2**63 - 1], np.int64),
    "float16": np.array([-1.5, 0.1, 65504.0, np.inf], np.float16),
    "float32": np.array([-1.5, 0.1, -0.0, -np.inf], np.float32),
    "float64": np.array([-1.5, 0.1, 5e-324, np.inf], np.float64),
    "scalar": np.array(7, np.int32),
    "empty": np.zeros((2, 0, 3), np.float32),
    "one element": np.array([[[2.5]]], np.float32),
    "C order": np.arange(12, dtype=np.int16).reshape(2, 3, 2),
}

_BOX = kinds.Box(-1.0, 1.0, (2,), np.float32)
_GRAPH = kinds.Graph(kinds.Box(0, 9, (1,), np.int16), kinds.Discrete(3))


def _node(nodes: list[int], edges: list[int] | None, links: list[list[int]]) -> Any:
    return kinds.GraphInstance(
        np.array(nodes, np.int16).reshape(-1, 1),
        None if edges is None else np.array(edges, np.int64),
        None if edges is None else np.array(links, np.int32).reshape(-1, 2),
    )


#: By name a space and a batch of its values, one for each row.
VALUES: dict[str, tuple[gym.Space[Any], list[Any]]] = {
    "Box": (_BOX, [np.array([0.5, -1], np.float32), np.array([0, 1], np.float32)]),
    "Box with bounds of its own": (
        kinds.Box(np.array([0, -5], np.int16), np.array([3, 7], np.int16), dtype=np.int16),
        [np.array([3, -5], np.int16)],
    ),
    "Box unbounded": (kinds.Box(-np.inf, np.inf, (), np.float64), [np.array(0.1), np.array(-2.0)]),
    "Box of images": (
        kinds.Box(0, 255, (1, 2, 3), np.uint8),
        [np.arange(6, dtype=np.uint8).reshape(1, 2, 3)],
    ),
    "Discrete": (kinds.Discrete(5), [np.int64(0), np.int64(4), np.int64(2)]),
    "Discrete from -1": (kinds.Discrete(3, start=-1), [np.int64(-1), np.int64(1)]),
    "Discrete of int32": (kinds.Discrete(300, dtype=np.int32), [np.int32(299)]),
    "MultiDiscrete": (kinds.MultiDiscrete([3, 5]), [np.array([2, 4]), np.array([0, 0])]),
    "MultiDiscrete from elsewhere": (
        kinds.MultiDiscrete(np.array([[2, 2]]), start=np.array([[-1, 10]])),
        [np.array([[-1, 11]])],
    ),
    "MultiBinary": (kinds.MultiBinary(3), [np.array([1, 0, 1], np.int8)]),
    "MultiBinary of two dimensions": (
        kinds.MultiBinary((2, 2)),
        [np.array([[1, 0], [0, 1]], np.int8)],
    ),
    "Text": (kinds.Text(5, min_length=0, charset="aé€😀"), ["aé€", "", "😀"]),
    "Tuple": (kinds.Tuple((kinds.Discrete(2), _BOX)), [(np.int64(1), np.zeros(2, np.float32))]),
    "Dict": (
        kinds.Dict([("z", kinds.Discrete(2)), ("a", kinds.MultiBinary(2))]),
        [
            {"z": np.int64(1), "a": np.array([0, 1], np.int8)},
            {"z": np.int64(0), "a": np.array([1, 1], np.int8)},
        ],
    ),
    "Dict and Tuple, nested": (
        kinds.Dict([("pose", kinds.Tuple((_BOX, kinds.Dict([("gear", kinds.Discrete(6))]))))]),
        [{"pose": (np.array([0.25, 0.5], np.float32), {"gear": np.int64(5)})}],
    ),
    "Sequence": (
        kinds.Sequence(kinds.Discrete(9)),
        [(np.int64(1), np.int64(2)), (), (np.int64(8),)],
    ),
    "Sequence, stacked": (
        kinds.Sequence(_BOX, stack=True),
        [np.array([[0, 1], [1, 0]], np.float32), np.zeros((0, 2), np.float32)],
    ),
    "Sequence of Sequences": (
        kinds.Sequence(kinds.Sequence(kinds.Discrete(3))),
        [((np.int64(1),), ()), ((np.int64(2), np.int64(0)),)],
    ),
    "Graph": (_GRAPH, [_node([3, 4, 5], [2, 0], [[0, 1], [2, 0]]), _node([9], [], [])]),
    "Graph without edge space": (
        kinds.Graph(kinds.Box(0, 9, (1,), np.int16), None),
        [_node([3, 4], None, [])],
    ),
    "OneOf": (
        kinds.OneOf((kinds.Discrete(4), _BOX)),
        [
            (np.int64(1), np.array([0.5, 0.5], np.float32)),
            (np.int64(0), np.int64(3)),
            (np.int64(1), np.array([-1, 1], np.float32)),
        ],
    ),
    "no rows": (kinds.Dict([("x", _BOX), ("t", kinds.Text(3, charset="ab"))]), []),
}

#: Tensors that a receiver must reject, and why.
REJECTED: dict[str, tuple[tensor_pb2.Tensor, str]] = {
    "no dtype": (
        tensor_pb2.Tensor(shape=[1], data=b"\0"),
        "Never sent; a receiver must reject it.",
    ),
    "a dtype that there is not": (
        tensor_pb2.Tensor(dtype=13, shape=[1], data=bytes(16)),  # type: ignore[arg-type]
        "There is no complex, object or string type.",
    ),
    "a bool of 2": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_BOOL, shape=[2], data=b"\1\2"),
        "1 byte, 0 or 1; any other byte must be rejected.",
    ),
    "a byte too few": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_INT16, shape=[2], data=bytes(3)),
        "a receiver must reject any other length.",
    ),
    "a byte too many": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UINT8, shape=[2], data=bytes(3)),
        "a receiver must reject any other length.",
    ),
    "a scalar without its element": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_FLOAT32),
        "Empty means a scalar, which has one element.",
    ),
    "bytes where there are no elements": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UINT8, shape=[0], data=b"\0"),
        "then there are no elements and `data` is empty.",
    ),
    "a negative dimension": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UINT8, shape=[-1], data=b""),
        "A dimension must not be negative, and there are at most 32 dimensions.",
    ),
    "33 dimensions": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UINT8, shape=[1] * 33, data=b"\0"),
        "A dimension must not be negative, and there are at most 32 dimensions.",
    ),
}


def plain(value: Any) -> Any:
    """A value as JSON can hold it; 64-bit integers and what is no number become strings."""
    if isinstance(value, kinds.GraphInstance):
        links = () if value.edge_links is None else value.edge_links
        edges = {} if not len(links) else {"edges": plain(value.edges), "links": plain(links)}
        return {"nodes": plain(value.nodes), **edges}
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(member) for member in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(member) for member in value]
    if isinstance(value, (np.ndarray, np.generic)):
        number = value.item()
        wide = value.dtype.kind in "iu" and value.dtype.itemsize == 8
        if wide or (isinstance(number, float) and not math.isfinite(number)):
            return str(number)
        return number
    return value


def tensor_case(message: tensor_pb2.Tensor) -> dict[str, Any]:
    """What a file says of one tensor."""
    return {
        "dtype": tensors.dtype_name(message.dtype),
        "shape": list(message.shape),
        "data": message.data.hex(),
    }


def files() -> dict[str, list[dict[str, Any]]]:
    """What is in each file, by its name."""
    of_tensors = []
    for name, array in ARRAYS.items():
        message = tensors.pack(array)
        of_tensors.append(
            {
                "name": name,
                **tensor_case(message),
                "values": plain(array),
                "message": message.SerializeToString(deterministic=True).hex(),
            }
        )
    of_spaces, of_values = [], []
    for name, (space, rows) in VALUES.items():
        description = spaces.to_proto(space)
        message = description.SerializeToString(deterministic=True).hex()
        space_as_json = MessageToDict(description, preserving_proto_field_name=True)
        of_spaces.append({"name": name, "space": space_as_json, "message": message})
        encoded = spaces.encode(space, spaces.batch(space, rows), len(rows))
        value = tensor_pb2.Value(tensors=encoded)
        of_values.append(
            {
                "name": name,
                "space": message,
                "rows": len(rows),
                "values": plain(rows),
                "tensors": [tensor_case(tensor) for tensor in encoded],
                "message": value.SerializeToString(deterministic=True).hex(),
            }
        )
    of_rejected = [
        {"name": name, "why": why, "message": message.SerializeToString(deterministic=True).hex()}
        for name, (message, why) in REJECTED.items()
    ]
    return {
        "tensors.json": of_tensors,
        "spaces.json": of_spaces,
        "values.json": of_values,
        "rejected.json": of_rejected,
    }


def text(cases: list[dict[str, Any]]) -> str:
    """A file's text: one case a line, so that a difference names it."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, cases in files().items():
        (FOLDER / file).write_text(text(cases), encoding="utf-8")
