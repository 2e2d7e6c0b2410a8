"""Batches of values as the tensors of ``farsim.v1.Value``, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim import tensors as arrays
from farsim.errors import InvalidTensor
from farsim.spaces.fitting import fit
from farsim.spaces.kinds import BatchedValue, IntArray, invalid, join, unsupported
from farsim.spaces.ragged import Chosen, Elements, NodesAndEdges
from farsim.spaces.rows import expect_members, expect_names, expect_rows
from farsim.v1 import tensor_pb2 as pb

_BYTE = np.dtype(np.uint8)
_COUNT = np.dtype(np.int64)
_LINK = np.dtype(np.int32)

#: The most elements, nodes or edges in one batch; more would not fit a message.
_MAX_COUNT = 2**31 - 1
#: How many elements may come without any bytes: those of a Sequence of an empty Tuple, say.
#: Unbounded, a message of a few bytes could ask for any amount of memory.
_MAX_WITHOUT_BYTES = 1024


def encode(space: Space[Any], values: BatchedValue, rows: int) -> list[pb.Tensor]:
    """The tensors of a batch of ``rows`` values, as the contract lays them out.

    Arrays are converted to the space's dtype if that changes no value. Whether the values lie
    within the space's bounds is not looked at.

    Raises:
        InvalidTensor: the structure, a shape, a dtype or the number of rows is not the space's.
    """
    encoded: list[pb.Tensor] = []
    _encode(space, values, rows, "", encoded)
    return encoded


def decode(space: Space[Any], tensors: Sequence[pb.Tensor], rows: int) -> BatchedValue:
    """The batch of ``rows`` values that the tensors hold; its arrays are read-only.

    Whether the values lie within the space's bounds is not looked at.

    Raises:
        InvalidTensor: the number of tensors, a dtype, a shape or a length is not what the
            space and ``rows`` ask for, or the bytes do not say what they should.
    """
    expected = tensor_count(space)
    if len(tensors) != expected:
        raise InvalidTensor(f"expected {expected} tensors, found {len(tensors)}")
    return _decode(space, iter(tensors), rows, "")


@singledispatch
def tensor_count(space: Space[Any]) -> int:
    """How many tensors a batch of ``space`` has, whatever the values."""
    raise unsupported(space)


@singledispatch
def _encode(
    space: Space[Any], values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    """Appends the tensors of ``values`` to ``encoded``."""
    raise unsupported(space)


@singledispatch
def _decode(space: Space[Any], tensors: Iterator[pb.Tensor], rows: int, path: str) -> BatchedValue:
    """Takes the tensors of ``space`` off ``tensors``."""
    raise unsupported(space)


def _unpack(
    tensor: pb.Tensor, dtype: np.dtype[Any], shape: tuple[int, ...], path: str
) -> NDArray[Any]:
    try:
        array = arrays.unpack(tensor)
    except InvalidTensor as error:
        raise invalid(path, error.message) from None
    if array.shape != shape or tensor.dtype != arrays.code_of(dtype):
        raise invalid(
            path,
            f"expected {arrays.describe(dtype, shape)}, "
            f"found {arrays.describe(array.dtype, array.shape)}",
        )
    return array


def _unpack_counts(
    tensors: Iterator[pb.Tensor], rows: int, path: str, what: str
) -> tuple[IntArray, int]:
    """Takes off a tensor of counts, one for each row, and gives their sum too."""
    counts = _unpack(next(tensors), _COUNT, (rows,), join(path, what))
    if rows and int(counts.min()) < 0:
        raise invalid(join(path, what), f"expected no negative number, found {counts.min()}")
    # The largest one first: the sum of larger ones could wrap round.
    if rows and (int(counts.max()) > _MAX_COUNT or int(counts.sum()) > _MAX_COUNT):
        raise invalid(join(path, what), f"expected at most {_MAX_COUNT} in all, found more")
    return counts, int(counts.sum())


def _check_backed(total: int, tensors: Sequence[pb.Tensor], path: str) -> None:
    if total > _MAX_WITHOUT_BYTES and total > sum(tensor.ByteSize() for tensor in tensors):
        raise invalid(
            path,
            f"expected at most {_MAX_WITHOUT_BYTES} elements that hold nothing, found {total}",
        )


# Box, Discrete, MultiDiscrete, MultiBinary


@tensor_count.register(spaces.Box)
@tensor_count.register(spaces.Discrete)
@tensor_count.register(spaces.MultiDiscrete)
@tensor_count.register(spaces.MultiBinary)
def _count_array(space: Space[Any]) -> int:
    return 1


@_encode.register(spaces.Box)
@_encode.register(spaces.Discrete)
@_encode.register(spaces.MultiDiscrete)
@_encode.register(spaces.MultiBinary)
def _encode_array(
    space: Any, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    encoded.append(arrays.pack(fit(values, space.dtype, (rows, *space.shape), path)))


@_decode.register(spaces.Box)
@_decode.register(spaces.Discrete)
@_decode.register(spaces.MultiDiscrete)
@_decode.register(spaces.MultiBinary)
def _decode_array(space: Any, tensors: Iterator[pb.Tensor], rows: int, path: str) -> NDArray[Any]:
    return _unpack(next(tensors), space.dtype, (rows, *space.shape), path)


# Text


@tensor_count.register(spaces.Text)
def _count_text(space: spaces.Text) -> int:
    return 2


@_encode.register(spaces.Text)
def _encode_text(
    space: spaces.Text, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    texts = []
    for text in expect_rows(values, rows, path):
        if not isinstance(text, str):
            raise invalid(path, f"expected a text in each row, found {type(text).__name__}")
        try:
            texts.append(text.encode())
        except UnicodeEncodeError as error:
            raise invalid(path, f"expected a text that UTF-8 can write: {error}") from None
    encoded.append(arrays.pack(np.array([len(text) for text in texts], _COUNT)))
    encoded.append(arrays.pack(np.frombuffer(b"".join(texts), _BYTE)))


@_decode.register(spaces.Text)
def _decode_text(
    space: spaces.Text, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> tuple[str, ...]:
    lengths, total = _unpack_counts(tensors, rows, path, "lengths")
    data = _unpack(next(tensors), _BYTE, (total,), path).tobytes()
    texts, start = [], 0
    for row, length in enumerate(lengths.tolist()):
        try:
            texts.append(data[start : start + length].decode())
        except UnicodeDecodeError as error:
            raise invalid(path, f"expected UTF-8 in row {row}: {error}") from None
        start += length
    return tuple(texts)


# Tuple and Dict


@tensor_count.register(spaces.Tuple)
def _count_tuple(space: spaces.Tuple) -> int:
    return sum(tensor_count(member) for member in space.spaces)


@_encode.register(spaces.Tuple)
def _encode_tuple(
    space: spaces.Tuple, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    values = expect_members(space, values, path)
    for index, member in enumerate(space.spaces):
        _encode(member, values[index], rows, join(path, index), encoded)


@_decode.register(spaces.Tuple)
def _decode_tuple(
    space: spaces.Tuple, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> tuple[BatchedValue, ...]:
    return tuple(
        _decode(member, tensors, rows, join(path, index))
        for index, member in enumerate(space.spaces)
    )


@tensor_count.register(spaces.Dict)
def _count_dict(space: spaces.Dict) -> int:
    return sum(tensor_count(member) for member in space.spaces.values())


@_encode.register(spaces.Dict)
def _encode_dict(
    space: spaces.Dict, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    values = expect_names(space, values, path)
    for name, member in space.spaces.items():
        _encode(member, values[name], rows, join(path, name), encoded)


@_decode.register(spaces.Dict)
def _decode_dict(
    space: spaces.Dict, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> dict[str, BatchedValue]:
    return {
        name: _decode(member, tensors, rows, join(path, name))
        for name, member in space.spaces.items()
    }


# Sequence


@tensor_count.register(spaces.Sequence)
def _count_sequence(space: spaces.Sequence) -> int:
    return 1 + tensor_count(space.feature_space)


@_encode.register(spaces.Sequence)
def _encode_sequence(
    space: spaces.Sequence, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    elements = Elements.of(space, values, rows, path)
    total = int(elements.lengths.sum())
    encoded.append(arrays.pack(elements.lengths))
    first = len(encoded)
    _encode(space.feature_space, elements.batched, total, join(path, "element"), encoded)
    _check_backed(total, encoded[first:], path)


@_decode.register(spaces.Sequence)
def _decode_sequence(
    space: spaces.Sequence, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> tuple[Any, ...]:
    lengths, total = _unpack_counts(tensors, rows, path, "lengths")
    own = [next(tensors) for _ in range(tensor_count(space.feature_space))]
    _check_backed(total, own, path)
    batched = _decode(space.feature_space, iter(own), total, join(path, "element"))
    return Elements(lengths, batched).together(space)


# Graph


@tensor_count.register(spaces.Graph)
def _count_graph(space: spaces.Graph) -> int:
    edge = 0 if space.edge_space is None else tensor_count(space.edge_space) + 1
    return 2 + tensor_count(space.node_space) + edge


@_encode.register(spaces.Graph)
def _encode_graph(
    space: spaces.Graph, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    parts = NodesAndEdges.of(space, values, rows, path)
    nodes, edges = int(parts.node_counts.sum()), int(parts.edge_counts.sum())
    encoded.append(arrays.pack(parts.node_counts))
    encoded.append(arrays.pack(parts.edge_counts))
    _encode(space.node_space, parts.nodes, nodes, join(path, "node"), encoded)
    if space.edge_space is not None:
        _encode(space.edge_space, parts.edges, edges, join(path, "edge"), encoded)
        encoded.append(arrays.pack(parts.links))


@_decode.register(spaces.Graph)
def _decode_graph(
    space: spaces.Graph, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> tuple[spaces.GraphInstance, ...]:
    node_counts, nodes = _unpack_counts(tensors, rows, path, "nodes")
    edge_counts, edges = _unpack_counts(tensors, rows, path, "edges")
    node_values = _decode(space.node_space, tensors, nodes, join(path, "node"))
    if space.edge_space is not None:
        edge_values = _decode(space.edge_space, tensors, edges, join(path, "edge"))
        links = _unpack(next(tensors), _LINK, (edges, 2), join(path, "links"))
    elif edges:
        raise invalid(path, f"expected no edges, as the space has no edge space; found {edges}")
    else:
        edge_values, links = None, np.zeros((0, 2), _LINK)
    parts = NodesAndEdges(node_counts, edge_counts, node_values, edge_values, links)
    parts.check_links(path)
    return parts.together(space)


# OneOf


@tensor_count.register(spaces.OneOf)
def _count_one_of(space: spaces.OneOf) -> int:
    return 1 + sum(tensor_count(member) for member in space.spaces)


@_encode.register(spaces.OneOf)
def _encode_one_of(
    space: spaces.OneOf, values: BatchedValue, rows: int, path: str, encoded: list[pb.Tensor]
) -> None:
    chosen = Chosen.of(space, values, rows, path)
    encoded.append(arrays.pack(chosen.index))
    for number, member in enumerate(space.spaces):
        count = len(chosen.rows_of(number))
        _encode(member, chosen.batched[number], count, join(path, number), encoded)


@_decode.register(spaces.OneOf)
def _decode_one_of(
    space: spaces.OneOf, tensors: Iterator[pb.Tensor], rows: int, path: str
) -> tuple[tuple[np.int64, Any], ...]:
    index = _unpack(next(tensors), _COUNT, (rows,), join(path, "members"))
    wrong = (index < 0) | (index >= len(space.spaces))
    if wrong.any():
        raise invalid(
            join(path, "members"),
            f"expected members from 0 to {len(space.spaces) - 1}, found {index[wrong][0]}",
        )
    counts = np.bincount(index, minlength=len(space.spaces)).tolist()
    batched = tuple(
        _decode(member, tensors, counts[number], join(path, number))
        for number, member in enumerate(space.spaces)
    )
    return Chosen(index, batched).together(space)
