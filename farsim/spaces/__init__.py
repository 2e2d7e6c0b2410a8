"""Gymnasium's spaces and their values, for the wire.

A *batched value* of B rows is laid out as Gymnasium's vector environments do it, which is what
``gymnasium.vector.utils.batch_space(space, B)`` contains:

=============================================  =================================================
Box, Discrete, MultiDiscrete, MultiBinary      one array, [B, ...shape]
Tuple                                          a tuple of batched values, one for each member
Dict                                           a dict of batched values, one for each member
Text, Sequence, Graph, OneOf                   a tuple of B single values
=============================================  =================================================

A single value of a Sequence is a tuple of single values, or with ``stack=True`` one batched value
with a row for each element. A Graph without edges has None for both its edges and links.

    >>> from gymnasium.spaces import Box, Dict, Discrete
    >>> from farsim import spaces
    >>> space = Dict({"angle": Box(-3.2, 3.2, ()), "gear": Discrete(5)})
    >>> values = spaces.batch(space, [{"angle": 0.5, "gear": 1}, {"angle": 1.5, "gear": 7}])
    >>> values
    {'angle': array([0.5, 1.5], dtype=float32), 'gear': array([1, 7])}
    >>> tensors = spaces.encode(space, values, 2)
    >>> [list(tensor.shape) for tensor in tensors]
    [[2], [2]]
    >>> spaces.decode(space, tensors, 2)["gear"]
    array([1, 7])
    >>> spaces.outside(space, values, 2)
    array([1])
"""

from farsim.spaces.description import to_proto, units
from farsim.spaces.identity import differences, digest
from farsim.spaces.kinds import BatchedValue, leaves, members
from farsim.spaces.masks import full_masks, mask_widths
from farsim.spaces.membership import check, is_surely_inside, outside
from farsim.spaces.parsing import from_proto
from farsim.spaces.rows import (
    batch,
    concatenate,
    count,
    fitted,
    put,
    scatter,
    take,
    unbatch,
    zeros,
)
from farsim.spaces.values import decode, encode, tensor_count

__all__ = [
    "BatchedValue",
    "batch",
    "check",
    "concatenate",
    "count",
    "decode",
    "differences",
    "digest",
    "encode",
    "fitted",
    "from_proto",
    "full_masks",
    "is_surely_inside",
    "leaves",
    "mask_widths",
    "members",
    "outside",
    "put",
    "scatter",
    "take",
    "tensor_count",
    "to_proto",
    "unbatch",
    "units",
    "zeros",
]
