"""The actions of a step request, for all agents of its environments."""

from __future__ import annotations

import numpy as np

from farsim import spaces
from farsim.errors import FarsimError, InvalidAction, InvalidArgument
from farsim.v1 import simulator_pb2 as pb
from simserver.simulator import BatchedValue, BoolArray, Group, IntArray

#: How many missing agents an error names.
_NAMED = 5


def read(
    group: Group, envs: IntArray, acting: BoolArray | None, sent: pb.GroupActions, subject: str
) -> BatchedValue:
    """One group's actions, one row for every agent of every one of ``envs``.

    Args:
        group: whose.
        envs: the environments that the request names.
        acting: bool [rows], who of them is to act; None for everyone.
        sent: what the request says.
        subject: what errors are about.

    Returns:
        A batched value of the action space. Rows of agents that are not to act have zeros, or
        what the client sent for them.

    Raises:
        InvalidArgument: rows that are not increasing, or not of these environments.
        InvalidAction: an agent that is to act has none, or one outside the action space.
        InvalidTensor: bytes, dtype or shape are wrong.
    """
    count = len(envs) * len(group.agents)
    if not sent.HasField("rows"):
        return check(group, _decode(group, sent, count, subject), count, acting, subject)
    places = _places(group, envs, np.array(sent.rows.index, np.int64), subject)
    expected = np.ones(count, np.bool_) if acting is None else acting
    _nobody_missing(group, envs, expected, places, subject)
    values = _decode(group, sent, len(places), subject)
    values = _within(group, values, expected[places], subject)
    if len(places) == count:
        return values
    full = spaces.zeros(group.action_space, count)
    return spaces.put(group.action_space, full, places, values)


def check(
    group: Group, values: BatchedValue, count: int, acting: BoolArray | None, subject: str
) -> BatchedValue:
    """``values``, one of ``count`` rows for every agent, as ``read`` returns them.

    Raises:
        InvalidAction: an agent that is to act has one outside the action space.
    """
    if acting is not None:
        return _within(group, values, acting, subject)
    spaces.check(group.action_space, values, count, InvalidAction, subject)
    return values


def _decode(group: Group, sent: pb.GroupActions, count: int, subject: str) -> BatchedValue:
    try:
        return spaces.decode(group.action_space, sent.actions.tensors, count)
    except FarsimError as error:
        raise type(error)(f"{subject}: {error.message}", subject) from error


def _within(group: Group, values: BatchedValue, acting: BoolArray, subject: str) -> BatchedValue:
    """``values``, with zeros where those of an agent that is not to act lie outside the space."""
    space, count = group.action_space, len(acting)
    wrong = spaces.outside(space, values, count)
    if not len(wrong):
        return values
    ignored = wrong[~acting[wrong]]
    if len(ignored) < len(wrong):
        # Something inside the space for the ignored ones, so that the error is about another.
        inside = spaces.batch(space, [space.sample()] * len(ignored))
        values = spaces.put(space, values, ignored, inside)
        spaces.check(space, values, count, InvalidAction, subject)
    if len(ignored):
        values = spaces.put(space, values, ignored, spaces.zeros(space, len(ignored)))
    return values


def _places(group: Group, envs: IntArray, sent: IntArray, subject: str) -> IntArray:
    """Where the rows that a request names are among those of all agents of ``envs``."""
    if np.any(sent[1:] <= sent[:-1]):
        raise InvalidArgument(f"{subject}: rows must be strictly increasing", subject)
    agents = len(group.agents)
    named = sent // agents
    place = np.searchsorted(envs, named)
    known = envs[np.minimum(place, len(envs) - 1)] == named
    if not known.all():
        raise InvalidArgument(
            f"{subject}: rows {sent[~known].tolist()} are of environments "
            f"{np.unique(named[~known]).tolist()}, which this request does not name",
            subject,
        )
    places: IntArray = place * agents + sent % agents
    return places


def _nobody_missing(
    group: Group, envs: IntArray, expected: BoolArray, places: IntArray, subject: str
) -> None:
    missing = expected.copy()
    missing[places] = False
    if not missing.any():
        return
    agents = len(group.agents)
    where = np.flatnonzero(missing)
    names = [
        f"'{group.agents[place % agents]}' of environment {envs[place // agents]}"
        for place in where[:_NAMED].tolist()
    ]
    more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
    raise InvalidAction(
        f"{subject}: no action for {', '.join(names)}{more}: every agent that is to act needs one "
        "(GroupBatch.acting of the last reply about its environment says who is)",
        subject,
    )
