"""Step requests and the replies to them as bytes, for sessions whose spaces are arrays.

What a session sends again and again differs in the elements of its arrays and in little else. The
plan for it is made once, and what does not follow the plan is left to protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from farsim import spaces, varint
from farsim.layout import Layout, Pieces, delimited, header, tensor
from farsim.spaces.flat import Flat, flat
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

IntArray = NDArray[np.int64]

_INT = np.dtype(np.int64)
_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)
_STEP = pb.SimRequest.STEP_FIELD_NUMBER
_STEP_TAG = _STEP << 3 | 2
_ENVIRONMENTS = pb.Step.ENVIRONMENTS_FIELD_NUMBER
_ENVIRONMENTS_TAG = _ENVIRONMENTS << 3 | 2
_SEQUENCE_TAG = pb.SimRequest.SEQUENCE_FIELD_NUMBER << 3
_SEQUENCE_START = bytes((_SEQUENCE_TAG,))

#: For how many sets of environments a session remembers a plan.
_REMEMBERED = 64


class Group(Protocol):
    """What a plan needs to know of a session's group."""

    @property
    def observation_space(self) -> Space[Any]: ...
    @property
    def action_space(self) -> Space[Any]: ...
    @property
    def agents(self) -> Sequence[str]: ...
    @property
    def has_action_mask(self) -> bool: ...


class Stepped(NamedTuple):
    """The arrays of one group in the reply to a step, a row for each of its agents."""

    observation: Any
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    action_masks: tuple[NDArray[np.bool_], ...]


def numbered(sequence: int, body: bytes) -> bytes:
    """A ``SimRequest`` or ``SimReply`` out of its number and its other fields."""
    return number_field(sequence) + body


def number_field(sequence: int) -> bytes:
    """The first field of a ``SimRequest`` or ``SimReply``."""
    return _SEQUENCE_START + varint.encoded(sequence) if sequence else b""


class StepPlan:
    """What the steps of certain environments look like, and the replies to them.

    Args:
        groups: the session's.
        environments: int64, those stepped.
        whole: whether these are all of the session's, so that messages do not name them.

    Attributes:
        environments: as given, read-only.
        rows: int64, those of each group: of all agents of the environments.
        named: what a message says of them: a serialised ``Rows`` field number 1, or nothing.
    """

    def __init__(self, groups: Sequence[Group], environments: IntArray, whole: bool) -> None:
        self.environments = environments.copy()
        self.environments.setflags(write=False)
        self.rows = [_rows_of(self.environments, len(group.agents)) for group in groups]
        rows = tensor_pb2.Rows(index=environments.tolist()).SerializeToString()
        self.named = b"" if whole else header(_ENVIRONMENTS, len(rows)) + rows
        counts = [len(environments) * len(group.agents) for group in groups]
        self._actions = [_flat(group.action_space) for group in groups]
        self._request: Layout | None = None
        known = [found for found in self._actions if found is not None]
        if len(known) == len(groups):
            pieces: list[Any] = [self.named] if self.named else []
            for plan, count in zip(known, counts, strict=True):
                actions = delimited(pb.GroupActions.ACTIONS_FIELD_NUMBER, _value(plan, count))
                pieces += delimited(pb.Step.GROUPS_FIELD_NUMBER, actions)
            self._request = Layout(delimited(_STEP, pieces))
        self._replies = [
            _GroupReply.of(group, count) for group, count in zip(groups, counts, strict=True)
        ]

    def write_request(self, actions: Sequence[Any]) -> bytes | None:
        """A ``SimRequest`` without its number; None if it is to be written in another way."""
        if self._request is None:
            return None
        arrays: list[NDArray[Any]] = []
        for plan, action in zip(self._actions, actions, strict=True):
            found = plan.flatten(action) if plan is not None else None
            if found is None:
                return None
            arrays += found
        parts = self._request.fill(arrays)
        return None if parts is None else b"".join(parts)

    def read_request(self, raw: bytes, at: int) -> list[Any] | None:
        """The actions of each group in a ``SimRequest`` whose number ends at ``at``.

        None if it is to be read in another way.
        """
        if self._request is None or len(raw) != at + self._request.size:
            return None
        arrays = self._request.read(raw, at)
        if arrays is None:
            return None
        actions, first = [], 0
        for plan in self._actions:
            if plan is None:
                return None
            after = first + len(plan.leaves)
            actions.append(plan.unflatten(arrays[first:after]))
            first = after
        return actions

    def write_group(self, number: int, stepped: Stepped) -> tuple[list[Any], int] | None:
        """The start of a ``GroupBatch``: buffers with the arrays, and how many bytes they are.

        None if they are to be written in another way.
        """
        reply = self._replies[number]
        return None if reply is None else reply.write(stepped)

    def read_group(self, number: int, raw: bytes, at: int, end: int) -> tuple[Stepped, int] | None:
        """The arrays of a group's ``GroupBatch`` between two places, and where they end.

        None if it is to be read in another way.
        """
        reply = self._replies[number]
        return None if reply is None else reply.read(raw, at, end)


class StepPlans:
    """The plans of a session: for all its environments, and for some that come again.

    Args:
        groups: the session's.
        num_envs: how many environments it has.

    Attributes:
        whole: for all of them.
    """

    def __init__(self, groups: Sequence[Group], num_envs: int) -> None:
        self._groups, self._num_envs = groups, num_envs
        self.whole = StepPlan(groups, np.arange(num_envs), whole=True)
        #: By the environments' bytes; None for those that have come only once.
        self._some: dict[bytes, StepPlan | None] = {}
        #: Those that there are, by ``StepPlan.named``.
        self._named: dict[bytes, StepPlan] = {}

    def of(self, environments: IntArray) -> StepPlan | None:
        """The plan for environments that have been found good; None at the first time."""
        if len(environments) == self._num_envs:
            return self.whole
        key = environments.tobytes()
        if key in self._some:
            plan = self._some[key]
            if plan is None:
                plan = self._some[key] = StepPlan(self._groups, environments, whole=False)
                self._named[plan.named] = plan
            return plan
        if len(self._some) >= _REMEMBERED:
            self._some.clear()
            self._named.clear()
        self._some[key] = None
        return None

    def known(self, environments: IntArray) -> IntArray | None:
        """``environments`` if there is a plan for them, so that they have been found good."""
        if environments.dtype != _INT or environments.ndim != 1:
            return None
        plan = self._some.get(environments.tobytes())
        return None if plan is None else plan.environments

    def read(self, raw: bytes) -> tuple[int, StepPlan, list[Any]] | None:
        """Number, plan and actions of a serialised ``SimRequest`` that is a step.

        None if it is to be read in another way.
        """
        try:
            if raw[0] != _SEQUENCE_TAG:
                return None
            sequence, at = varint.decoded(raw, 1)
            if raw[at] != _STEP_TAG:
                return None
            _, begin = varint.decoded(raw, at + 1)
            plan: StepPlan | None = self.whole
            if self._named and raw[begin] == _ENVIRONMENTS_TAG:
                length, first = varint.decoded(raw, begin + 1)
                plan = self._named.get(raw[begin : first + length])
        except IndexError:
            return None
        actions = None if plan is None else plan.read_request(raw, at)
        return None if plan is None or actions is None else (sequence, plan, actions)


class _GroupReply:
    """The first fields of the ``GroupBatch`` of a group that has a row for each of its agents."""

    def __init__(self, group: Group, observations: Flat, count: int) -> None:
        self._observations = observations
        widths = spaces.mask_widths(group.action_space) if group.has_action_mask else []
        of = pb.GroupBatch
        self._layout = Layout(
            [
                *delimited(of.OBSERVATION_FIELD_NUMBER, _value(observations, count)),
                *delimited(of.REWARD_FIELD_NUMBER, tensor(_FLOAT, (count,))),
                *delimited(of.TERMINATED_FIELD_NUMBER, tensor(_BOOL, (count,))),
                *delimited(of.TRUNCATED_FIELD_NUMBER, tensor(_BOOL, (count,))),
                *(
                    piece
                    for width in widths
                    for piece in delimited(
                        of.ACTION_MASKS_FIELD_NUMBER, tensor(_BOOL, (count, width))
                    )
                ),
            ]
        )
        self._masks = len(widths)

    @classmethod
    def of(cls, group: Group, count: int) -> _GroupReply | None:
        plan = _flat(group.observation_space)
        return None if plan is None else cls(group, plan, count)

    def write(self, stepped: Stepped) -> tuple[list[Any], int] | None:
        arrays = self._observations.flatten(stepped.observation)
        if arrays is None or len(stepped.action_masks) != self._masks:
            return None
        arrays += (stepped.reward, stepped.terminated, stepped.truncated, *stepped.action_masks)
        parts = self._layout.fill(arrays)
        return None if parts is None else (parts, self._layout.size)

    def read(self, raw: bytes, at: int, end: int) -> tuple[Stepped, int] | None:
        after = at + self._layout.size
        arrays = self._layout.read(raw, at) if after <= end else None
        if arrays is None:
            return None
        masks = len(arrays) - self._masks
        reward, terminated, truncated = arrays[masks - 3 : masks]
        observation = self._observations.unflatten(arrays[: masks - 3])
        return Stepped(observation, reward, terminated, truncated, tuple(arrays[masks:])), after


def _rows_of(environments: IntArray, agents: int) -> IntArray:
    if agents == 1:
        return environments
    rows: IntArray = (environments[:, None] * agents + np.arange(agents)).reshape(-1)
    rows.setflags(write=False)
    return rows


def _flat(space: Space[Any]) -> Flat | None:
    """As ``flat``; None also where there is no array at all."""
    plan = flat(space)
    return plan if plan is not None and plan.leaves else None


def _value(plan: Flat, rows: int) -> Pieces:
    """A ``Value`` of so many rows."""
    return [
        piece
        for dtype, shape in plan.leaves
        for piece in delimited(tensor_pb2.Value.TENSORS_FIELD_NUMBER, tensor(dtype, (rows, *shape)))
    ]
