"""Values of varying size, taken apart into batches of one size and put together again.

A batch of a Sequence, Graph or OneOf is a tuple with one value for each row. On the wire, and
wherever arrays are to be worked on as a whole, the contents of all rows form one batch, next to
arrays that say which row each belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from numpy.typing import NDArray

from farsim.spaces.fitting import fit
from farsim.spaces.kinds import BatchedValue, IntArray, invalid, join
from farsim.spaces.rows import batch, concatenate, count, expect_rows, take, unbatch, zeros

_LINK = np.dtype(np.int32)


@dataclass(frozen=True)
class Elements:
    """What the sequences of a batch hold.

    Attributes:
        lengths: int64 [rows], how many elements each row has.
        batched: the elements of the first row, of the second, and so on.
    """

    lengths: IntArray
    batched: BatchedValue

    @classmethod
    def of(cls, space: spaces.Sequence, values: Any, rows: int, path: str) -> Elements:
        """Takes apart a batch of ``space``.

        Raises:
            InvalidTensor: it has another structure, or not ``rows`` rows.
        """
        inside, element = join(path, "element"), space.feature_space
        values = expect_rows(values, rows, path)
        if space.stack:
            parts = [(value, count(element, value, inside)) for value in values]
            lengths = [length for _, length in parts]
            return cls(np.array(lengths, np.int64), concatenate(element, parts, inside))
        for value in values:
            if not isinstance(value, (tuple, list)):
                raise invalid(
                    path, f"expected a tuple of elements in each row, found {type(value).__name__}"
                )
        lengths = [len(value) for value in values]
        flat = [single for value in values for single in value]
        return cls(np.array(lengths, np.int64), batch(element, flat, inside))

    def together(self, space: spaces.Sequence) -> tuple[Any, ...]:
        """The batch of ``space`` that these are the elements of."""
        element = space.feature_space
        if space.stack:
            return tuple(take(element, self.batched, part) for part in _slices(self.lengths))
        singles = unbatch(element, self.batched, int(self.lengths.sum()))
        return tuple(tuple(singles[part]) for part in _slices(self.lengths))


@dataclass(frozen=True)
class NodesAndEdges:
    """What the graphs of a batch hold.

    Attributes:
        node_counts: int64 [rows].
        edge_counts: int64 [rows], all 0 if the space has no edge space.
        nodes: batch of the node space, the first row's nodes first.
        edges: batch of the edge space; None if there is none.
        links: int32 [edges, 2], as indices (from, to) of nodes in the same row.
    """

    node_counts: IntArray
    edge_counts: IntArray
    nodes: BatchedValue
    edges: BatchedValue
    links: NDArray[np.int32]

    @classmethod
    def of(cls, space: spaces.Graph, values: Any, rows: int, path: str) -> NodesAndEdges:
        """Takes apart a batch of ``space``.

        Raises:
            InvalidTensor: it has another structure, not ``rows`` rows, or a link to a node that
                is not there.
        """
        nodes, edges, links = [], [], []
        for graph in expect_rows(values, rows, path):
            if not isinstance(graph, GraphInstance):
                found = type(graph).__name__
                raise invalid(path, f"expected a GraphInstance in each row, found {found}")
            nodes.append(_counted(space.node_space, graph.nodes, join(path, "node")))
            edges.append(_edges(space, graph, path))
            links.append(_links(graph, edges[-1][1], path))
        parts = cls(
            np.array([number for _, number in nodes], np.int64),
            np.array([number for _, number in edges], np.int64),
            concatenate(space.node_space, nodes, join(path, "node")),
            None
            if space.edge_space is None
            else concatenate(space.edge_space, edges, join(path, "edge")),
            np.concatenate([np.zeros((0, 2), _LINK), *links]),
        )
        parts.check_links(path)
        return parts

    def check_links(self, path: str) -> None:
        """Raises ``InvalidTensor`` if a link leads to a node that its graph does not have."""
        nodes = np.repeat(self.node_counts, self.edge_counts)[:, None]
        wrong = (self.links < 0) | (self.links >= nodes)
        if wrong.any():
            edge, end = np.argwhere(wrong)[0]
            row = int(np.searchsorted(np.cumsum(self.edge_counts), edge, side="right"))
            raise invalid(
                join(path, "links"),
                f"expected indices of the {self.node_counts[row]} nodes of row {row}, "
                f"found {self.links[edge, end]}",
            )

    def together(self, space: spaces.Graph) -> tuple[GraphInstance, ...]:
        """The batch of ``space`` that these are the contents of.

        A graph without edges has None for both its edges and its links.
        """
        graphs = []
        for nodes, edges in zip(_slices(self.node_counts), _slices(self.edge_counts), strict=True):
            of_row = take(space.node_space, self.nodes, nodes)
            if space.edge_space is None or edges.start == edges.stop:
                graphs.append(GraphInstance(of_row, None, None))
            else:
                between = take(space.edge_space, self.edges, edges)
                graphs.append(GraphInstance(of_row, between, self.links[edges]))
        return tuple(graphs)


@dataclass(frozen=True)
class Chosen:
    """What the values of a batch of a OneOf hold.

    Attributes:
        index: int64 [rows], the member that each row has chosen.
        batched: for every member a batch of the rows that have chosen it.
    """

    index: IntArray
    batched: tuple[BatchedValue, ...]

    @classmethod
    def of(cls, space: spaces.OneOf, values: Any, rows: int, path: str) -> Chosen:
        """Takes apart a batch of ``space``.

        Raises:
            InvalidTensor: it has another structure, not ``rows`` rows, or chooses a member that
                is not there.
        """
        by_member: list[list[Any]] = [[] for _ in space.spaces]
        index = []
        for value in expect_rows(values, rows, path):
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise invalid(path, f"expected (member, value) in each row, found {value!r:.80}")
            number, single = value
            if not isinstance(number, (int, np.integer)) or not 0 <= number < len(by_member):
                raise invalid(
                    path, f"expected a member from 0 to {len(by_member) - 1}, found {number!r:.80}"
                )
            index.append(number)
            by_member[number].append(single)
        return cls(
            np.array(index, np.int64),
            tuple(
                batch(member, singles, join(path, number))
                for number, (member, singles) in enumerate(
                    zip(space.spaces, by_member, strict=True)
                )
            ),
        )

    def rows_of(self, member: int) -> IntArray:
        """The rows that have chosen ``member``, increasing."""
        return np.flatnonzero(self.index == member)

    def together(self, space: spaces.OneOf) -> tuple[tuple[np.int64, Any], ...]:
        """The batch of ``space`` that these are the contents of."""
        singles = [
            iter(unbatch(member, batched, len(self.rows_of(number))))
            for number, (member, batched) in enumerate(zip(space.spaces, self.batched, strict=True))
        ]
        return tuple((number, next(singles[number])) for number in self.index)


def owners(counts: IntArray) -> IntArray:
    """The row of each of the things that rows have ``counts`` of."""
    return np.repeat(np.arange(len(counts)), counts)


def _slices(counts: IntArray) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - number, end) for end, number in zip(ends, counts.tolist(), strict=True)]


def _counted(space: Any, values: Any, path: str) -> tuple[Any, int]:
    return values, count(space, values, path)


def _edges(space: spaces.Graph, graph: GraphInstance, path: str) -> tuple[Any, int]:
    if graph.edges is None:
        return None if space.edge_space is None else zeros(space.edge_space, 0), 0
    if space.edge_space is not None:
        return _counted(space.edge_space, graph.edges, join(path, "edge"))
    expect_rows(graph.edges, 0, join(path, "edge"))  # Without an edge space there are none.
    return None, 0


def _links(graph: GraphInstance, edges: int, path: str) -> NDArray[np.int32]:
    links: Any = graph.edge_links
    if links is None:
        links = np.zeros((0, 2), _LINK)
    return fit(links, _LINK, (edges, 2), join(path, "links"))
