"""What environments look like after a reset or a step, as the client sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from agent.description import Group, Parameter
from farsim import errors, spaces, tensors
from farsim.errors import FarsimError, ProtocolError
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

IntArray = NDArray[np.int64]

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


@dataclass(frozen=True)
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
        acting: int64, those of ``rows`` that are to act in the next step of their environment.
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


@dataclass(frozen=True)
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
        started = np.array(batch.started.index, np.int64)
        return cls(
            environments=environments,
            groups=tuple(
                _group(message, group, environments, started)
                for message, group in zip(batch.groups, groups, strict=True)
            ),
            faults={fault.environment: errors.from_proto(fault.error) for fault in batch.faults},
            started=started,
            episode_options={
                name: _decode(parameters[name].space, value, len(started))
                for name, value in batch.episode_options.values.items()
                if name in parameters
            },
        )


def _group(
    message: pb.GroupBatch, group: Group, environments: IntArray, started: IntArray
) -> GroupBatch:
    every = rows_of(environments, len(group.agents))
    rows = np.array(message.rows.index, np.int64) if message.HasField("rows") else every
    count = len(rows)
    if message.HasField("rows"):
        _check_rows(rows, every, f"rows of group '{group.name}'")
    final_rows = np.array(message.final_rows.index, np.int64)
    if len(final_rows):
        _check_rows(final_rows, rows, f"final rows of group '{group.name}'")
    stepped = message.HasField("reward")
    terminated = _flags(message.terminated, count, stepped)
    truncated = _flags(message.truncated, count, stepped)
    if message.HasField("acting"):
        acting = np.array(message.acting.index, np.int64)
        _check_rows(acting, rows, f"acting rows of group '{group.name}'")
    else:
        ended = terminated | truncated
        acting = rows
        if ended.any():
            acting = rows[going_on(rows // len(group.agents), ended, started)]
    return GroupBatch(
        rows=rows,
        observation=_decode(group.observation_space, message.observation, count),
        reward=_column(message.reward, np.float64, count) if stepped else np.zeros(count),
        terminated=terminated,
        truncated=truncated,
        action_masks=tuple(tensors.unpack(mask) for mask in message.action_masks),
        infos=_infos(message.infos, count),
        final_rows=final_rows,
        final_observation=(
            _decode(group.observation_space, message.final_observation, len(final_rows))
            if len(final_rows)
            else None
        ),
        final_infos=_infos(message.final_infos, len(final_rows)),
        acting=acting,
    )


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
    return ~ended | np.isin(environments, started)


def _check_rows(rows: IntArray, among: IntArray, what: str) -> None:
    if np.any(np.diff(rows) <= 0) or not np.isin(rows, among).all():
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
