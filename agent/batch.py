"""What environments look like after a reset or a step, as the client sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from gymnasium import Space
from numpy.typing import NDArray

from agent.description import Group, Parameter
from farsim import errors, spaces, tensors, varint
from farsim.errors import FarsimError, ProtocolError
from farsim.steps import Stepped, StepPlan
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

IntArray = NDArray[np.int64]

_NO_ROWS: IntArray = np.zeros(0, np.int64)
_NO_ROWS.setflags(write=False)

_GROUPS_TAG = pb.Batch.GROUPS_FIELD_NUMBER << 3 | 2
#: The fields of a ``GroupBatch`` that a plan reads; they come once.
_PLANNED = ("rows", "observation", "reward", "terminated", "truncated")

#: A batch of values of one space, laid out as Gymnasium's vector environments lay it out.
BatchedValue = Any


@dataclass(frozen=True)
class Info:
    """Something more about rows.

    Attributes:
        values: an array whose first dimension is the rows, or a list of as many strings.
        rows: int64, positions in the group batch's rows.
    """

    values: NDArray[Any] | list[str]
    rows: IntArray


@dataclass(slots=True)  # Not frozen: each step makes one, which would take three times as long.
class GroupBatch:
    """One group's side of a batch. Arrays are read-only views of the message.

    Attributes:
        rows: int64, the rows of the group that follow: row ``e * A + a`` is agent ``a`` of A of
            environment ``e``. Everything below has one row for each, in this order.
        observation: batched value of the group's observation space.
        reward: float64 [rows]; zeros after a reset.
        terminated: bool [rows]: the world reached an end; all False after a reset.
        truncated: bool [rows]: stopped from outside; all False after a reset.
        action_masks: one bool array [rows, n] for each Discrete and MultiDiscrete leaf of the
            action space; empty if the simulator has no masks.
        infos: by name; members of nested structures are joined with "/".
        final_rows: int64; with ``SAME_STEP`` the rows whose episode ended.
        final_observation: their last observations; None if there are none.
        final_infos: their last infos, whose ``rows`` are positions in ``final_rows``.
        acting: int64, those of ``rows`` that are to act in the next step of their environment;
            this very array ``rows`` only where everyone's episode goes on.
    """

    rows: IntArray
    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    action_masks: tuple[NDArray[np.bool_], ...] = ()
    infos: Mapping[str, Info] = field(default_factory=dict)
    final_rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    final_observation: BatchedValue = None
    final_infos: Mapping[str, Info] = field(default_factory=dict)
    acting: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def moved(self, by: int) -> GroupBatch:
        """The same with all rows of the group higher by ``by``."""
        rows = self.rows + by
        return replace(
            self,
            rows=rows,
            acting=rows if self.acting is self.rows else self.acting + by,
            final_rows=self.final_rows + by if len(self.final_rows) else self.final_rows,
        )


@dataclass(slots=True)  # Not frozen: each step makes one, which would take three times as long.
class Batch:
    """The reply to a reset, a step or a loaded state.

    Attributes:
        environments: int64, those that the request named.
        groups: one for each of the session's.
        faults: the environments that failed in this request, and why. Their rows have the
            observation from before, reward 0 and ``truncated``, and are no transitions.
        started: int64, the environments whose episode started in this request.
        episode_options: the per-episode parameters that the started episodes use, drawn ones
            included: batched values with one row for each of ``started``.
    """

    environments: IntArray
    groups: tuple[GroupBatch, ...]
    faults: Mapping[int, FarsimError]
    started: IntArray
    episode_options: Mapping[str, BatchedValue]

    @classmethod
    def from_proto(
        cls,
        batch: pb.Batch,
        environments: IntArray,
        groups: Sequence[Group],
        parameters: Mapping[str, Parameter],
    ) -> Batch:
        """Decodes the reply to a request about ``environments``.

        Raises:
            InvalidTensor: a tensor whose dtype or shape is not what the spaces say.
            ProtocolError: the reply is about something else than the request.
        """
        if len(batch.groups) != len(groups):
            raise ProtocolError(f"a reply about {len(batch.groups)} of {len(groups)} groups")
        if batch.HasField("environments") and batch.environments.index != environments.tolist():
            raise ProtocolError("a reply about other environments than the request")
        started = _index(batch.started)
        decoded = [
            _group(message, group, environments, started)
            for message, group in zip(batch.groups, groups, strict=True)
        ]
        return cls._of(batch, environments, decoded, started, parameters)

    @classmethod
    def from_bytes(
        cls,
        raw: bytes,
        begin: int,
        end: int,
        environments: IntArray,
        groups: Sequence[Group],
        parameters: Mapping[str, Parameter],
        plan: StepPlan | None = None,
    ) -> Batch:
        """As ``from_proto``, of a serialised batch between two places in ``raw``.

        Args:
            raw: bytes with a batch in them.
            begin: where it begins.
            end: where it ends.
            environments: what the request was about.
            groups: of the session.
            parameters: of the simulator.
            plan: of the step that was the request.

        Raises:
            InvalidTensor, ProtocolError: as there; ``ProtocolError`` also for bytes that are none.
        """
        try:
            planned = None if plan is None else _planned(raw, begin, end, groups, plan)
            if planned is not None:
                decoded, rest, started = planned
                return cls._of(rest, environments, decoded, started, parameters)
            message = pb.Batch.FromString(raw[begin:end])
        except DecodeError as error:
            raise ProtocolError(f"a reply that is no SimReply: {error}") from error
        return cls.from_proto(message, environments, groups, parameters)

    @classmethod
    def _of(
        cls,
        message: pb.Batch | None,
        environments: IntArray,
        groups: Sequence[GroupBatch],
        started: IntArray,
        parameters: Mapping[str, Parameter],
    ) -> Batch:
        """With the faults and options in ``message``; None for one that says nothing of them."""
        faults, options = {}, {}
        if message is not None:
            faults = {each.environment: errors.from_proto(each.error) for each in message.faults}
            if message.HasField("episode_options"):
                options = {
                    name: _decode(parameters[name].space, value, len(started))
                    for name, value in message.episode_options.values.items()
                    if name in parameters
                }
        return cls(environments, tuple(groups), faults, started, options)


def _planned(
    raw: bytes, begin: int, end: int, groups: Sequence[Group], plan: StepPlan
) -> tuple[list[GroupBatch], pb.Batch | None, IntArray] | None:
    """What ``from_bytes`` needs, if the bytes are as planned: groups, the rest, and ``started``.

    Raises:
        DecodeError: the bytes are no ``Batch``.
    """
    at = begin + len(plan.named)
    if not raw.startswith(plan.named, begin):
        return None
    parts = []
    for number in range(len(groups)):
        if at >= end or raw[at] != _GROUPS_TAG:
            return None
        try:
            length, first = varint.decoded(raw, at + 1)
        except IndexError:
            return None
        at = first + length
        found = plan.read_group(number, raw, first, at) if at <= end else None
        if found is None:
            return None
        arrays, after = found
        extra = pb.GroupBatch.FromString(raw[after:at]) if after < at else None
        if extra is not None and any(extra.HasField(name) for name in _PLANNED):
            return None
        parts.append((arrays, extra))
    rest, started = None, _NO_ROWS
    if at < end:
        rest = pb.Batch.FromString(raw[at:end])
        if len(rest.groups) or rest.HasField("environments"):
            return None
        started = _index(rest.started)
    decoded = [
        _stepped(group, plan.rows[number], *part, started)
        for number, (group, part) in enumerate(zip(groups, parts, strict=True))
    ]
    return decoded, rest, started


def _stepped(
    group: Group,
    rows: IntArray,
    arrays: Stepped,
    extra: pb.GroupBatch | None,
    started: IntArray,
) -> GroupBatch:
    """One group of the reply to a step, with a row for each of its agents."""
    final_rows, final_observation, acting = _NO_ROWS, None, None
    if extra is not None:
        final_rows, final_observation = _final(extra, group, rows)
        acting = _acting(extra, group, rows)
    return GroupBatch(
        rows=rows,
        observation=arrays.observation,
        reward=arrays.reward,
        terminated=arrays.terminated,
        truncated=arrays.truncated,
        action_masks=arrays.action_masks,
        infos={} if extra is None else _infos(extra.infos, len(rows)),
        final_rows=final_rows,
        final_observation=final_observation,
        final_infos={} if extra is None else _infos(extra.final_infos, len(final_rows)),
        acting=(
            _who_acts(group, rows, arrays.terminated, arrays.truncated, started)
            if acting is None
            else acting
        ),
    )


def _group(
    message: pb.GroupBatch, group: Group, environments: IntArray, started: IntArray
) -> GroupBatch:
    every = rows_of(environments, len(group.agents))
    rows = _index(message.rows) if message.HasField("rows") else every
    count = len(rows)
    if message.HasField("rows"):
        _check_rows(rows, every, f"rows of group '{group.name}'")
    final_rows, final_observation = _final(message, group, rows)
    stepped = message.HasField("reward")
    terminated = _flags(message.terminated, count, stepped)
    truncated = _flags(message.truncated, count, stepped)
    acting = _acting(message, group, rows)
    return GroupBatch(
        rows=rows,
        observation=_decode(group.observation_space, message.observation, count),
        reward=_column(message.reward, np.float64, count) if stepped else np.zeros(count),
        terminated=terminated,
        truncated=truncated,
        action_masks=tuple(tensors.unpack(mask) for mask in message.action_masks),
        infos=_infos(message.infos, count),
        final_rows=final_rows,
        final_observation=final_observation,
        final_infos=_infos(message.final_infos, len(final_rows)),
        acting=_who_acts(group, rows, terminated, truncated, started) if acting is None else acting,
    )


def _final(
    message: pb.GroupBatch, group: Group, rows: IntArray
) -> tuple[IntArray, BatchedValue | None]:
    final_rows = _index(message.final_rows)
    if not len(final_rows):
        return final_rows, None
    _check_rows(final_rows, rows, f"final rows of group '{group.name}'")
    return final_rows, _decode(group.observation_space, message.final_observation, len(final_rows))


def _acting(message: pb.GroupBatch, group: Group, rows: IntArray) -> IntArray | None:
    """What the message says of who is to act; None if it says nothing."""
    if not message.HasField("acting"):
        return None
    acting = _index(message.acting)
    _check_rows(acting, rows, f"acting rows of group '{group.name}'")
    return acting


def _who_acts(
    group: Group,
    rows: IntArray,
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    started: IntArray,
) -> IntArray:
    """Who is to act where nothing is said of that: everyone whose episode goes on."""
    ended = terminated | truncated
    if not np.count_nonzero(ended):
        return rows
    if len(group.agents) == 1:
        if rows[ended].tobytes() == started.tobytes():
            return rows
        return rows[going_on(rows, ended, started)]
    return rows[going_on(rows // len(group.agents), ended, started)]


def _index(rows: tensor_pb2.Rows) -> IntArray:
    # By way of a list: NumPy asks protobuf's sequence for one element after the other.
    return np.array(rows.index[:], np.int64)


def rows_of(environments: IntArray, agents: int) -> IntArray:
    """The rows of all agents of ``environments``, for a group of so many agents; in order."""
    if agents == 1:
        return environments
    return (environments[:, None] * agents + np.arange(agents)).reshape(-1)


def going_on(
    environments: IntArray, ended: NDArray[np.bool_], started: IntArray
) -> NDArray[np.bool_]:
    """Of rows of ``environments``, whose agent's episode goes on.

    Args:
        environments: of each row.
        ended: whether an episode of its agent ended.
        started: the environments in which an episode began, after that end if there was one.
    """
    if not len(started):
        return ~ended
    fresh = np.zeros(int(max(environments.max(initial=0), started.max())) + 1, np.bool_)
    fresh[started] = True
    return ~ended | fresh[environments]


def _check_rows(rows: IntArray, among: IntArray, what: str) -> None:
    """Raises unless ``rows`` are increasing and some of ``among``, which are increasing too."""
    if not len(rows):
        return
    known = False
    if len(among) and (len(rows) == 1 or not np.count_nonzero(rows[1:] <= rows[:-1])):
        # Of one that is none of them, the place may be the one after the last.
        known = among.take(among.searchsorted(rows), mode="clip").tobytes() == rows.tobytes()
    if not known:
        raise ProtocolError(f"{what}: {rows.tolist()} are not increasing, or nobody asked for them")


def _decode(space: Space[Any], value: tensor_pb2.Value, count: int) -> BatchedValue:
    return spaces.decode(space, value.tensors, count)


def _flags(tensor: tensor_pb2.Tensor, count: int, stepped: bool) -> NDArray[np.bool_]:
    return _column(tensor, np.bool_, count) if stepped else np.zeros(count, np.bool_)


def _column(tensor: tensor_pb2.Tensor, dtype: Any, count: int) -> NDArray[Any]:
    array = tensors.unpack(tensor)
    if array.dtype != dtype or array.shape != (count,):
        raise errors.InvalidTensor(
            f"expected {np.dtype(dtype)} [{count}], found {array.dtype} {list(array.shape)}"
        )
    return array


def _infos(infos: Sequence[pb.Info], count: int) -> dict[str, Info]:
    return {info.name: _info(info, count) for info in infos}


def _info(info: pb.Info, count: int) -> Info:
    rows = np.array(info.rows.index, np.int64) if info.HasField("rows") else np.arange(count)
    values = list(info.texts.texts) if info.HasField("texts") else tensors.unpack(info.tensor)
    found = np.shape(values)[:1]
    if found != rows.shape or np.any(rows >= count):
        raise errors.InvalidTensor(
            f"info '{info.name}' has values {list(found)} for {len(rows)} of {count} rows"
        )
    return Info(values, rows)
