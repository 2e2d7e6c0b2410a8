"""The actions of a step request, written as protobuf does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.batch import BatchedValue, IntArray
from agent.description import Group
from farsim import spaces
from farsim.errors import InvalidAction, InvalidArgument, InvalidTensor
from farsim.v1 import simulator_pb2 as pb


def write_actions(
    message: pb.Step,
    groups: Sequence[Group],
    envs: IntArray,
    actions: Sequence[BatchedValue],
    rows: Sequence[IntArray | None],
) -> None:
    """Adds the actions of all groups to a request.

    Args:
        message: about ``envs``.
        groups: of the session.
        envs: int64, the environments that are stepped.
        actions: for each group a batched value with a row for each of its ``rows``.
        rows: for each group the rows whose actions these are; None for all agents of ``envs``.

    Raises:
        InvalidAction: an action whose structure, shape or dtype is not the space's.
        InvalidArgument: rows that are not increasing, or not of ``envs``.
    """
    for group, action, named in zip(groups, actions, rows, strict=True):
        sent = message.groups.add()
        count = len(envs) * len(group.agents)
        if named is not None:
            sent.rows.index.extend(_checked(group, named, envs))
            sent.rows.SetInParent()  # Present also without a row.
            count = len(named)
        try:
            sent.actions.tensors.extend(spaces.encode(group.action_space, action, count))
        except InvalidTensor as error:
            raise InvalidAction(f"actions of group '{group.name}': {error.message}") from None


def _checked(group: Group, rows: IntArray, envs: IntArray) -> list[int]:
    array = np.asarray(rows)
    agents = len(group.agents)
    if (
        array.ndim != 1
        or (array.size and array.dtype.kind not in "iu")
        or np.any(np.diff(array) <= 0)
        or not np.isin(array // agents, envs).all()
    ):
        raise InvalidArgument(
            f"rows of group '{group.name}' are increasing numbers of agents of the environments "
            f"that are stepped, not {array.tolist()}",
            "rows",
        )
    return array.astype(np.int64).tolist()
