"""What a batch says of episodes, read as forgivingly as can be: others look at its form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from farsim import spaces, tensors
from farsim.check.verdicts import Blocked
from farsim.errors import FarsimError
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2


@dataclass(frozen=True)
class Group:
    """A group of ``Opened``, with its spaces.

    Attributes:
        message: as the server sent it.
        observation_space: of one agent.
        action_space: of one agent.
    """

    message: pb.Group
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @property
    def agents(self) -> int:
        return len(self.message.agents)

    def rows(self, envs: Sequence[int]) -> list[int]:
        """All agents' rows of some environments."""
        return [env * self.agents + agent for env in envs for agent in range(self.agents)]

    @classmethod
    def read(cls, message: pb.Group) -> Group:
        """The group of a message.

        Raises:
            Blocked: its spaces can not be read.
        """
        try:
            return cls(
                message,
                spaces.from_proto(message.observation_space),
                spaces.from_proto(message.action_space),
            )
        except FarsimError as error:
            raise Blocked(f"a space of group '{message.name}' can not be read: {error}") from error


@dataclass(frozen=True)
class Part:
    """One group's side of a batch.

    Attributes:
        group: which.
        message: as it came.
        rows: of the group, in the batch's order.
        ended: of those, the ones that are terminated or truncated.
        going: the ones whose episode goes on after the batch.
        acting: the ones that are to act next.
    """

    group: Group
    message: pb.GroupBatch
    rows: list[int]
    ended: set[int]
    going: set[int]
    acting: set[int]

    def masks(self) -> list[np.ndarray[Any, Any]]:
        """The masks, each [rows, width].

        Raises:
            Blocked: they can not be read.
        """
        widths = spaces.mask_widths(self.group.action_space)
        masks = [_unpack(mask) for mask in self.message.action_masks]
        shapes = [list(mask.shape) for mask in masks]
        if shapes != [[len(self.rows), width] for width in widths]:
            raise Blocked(f"masks of shapes {shapes} came for {len(self.rows)} rows of {widths}")
        return masks


class View:
    """A batch about some environments.

    Args:
        groups: of the session.
        envs: that the request named.
        message: as it came.

    Raises:
        Blocked: it says nothing that can be understood.
    """

    def __init__(self, groups: Sequence[Group], envs: Sequence[int], message: pb.Batch) -> None:
        self.envs, self.message = list(envs), message
        self.started = list(message.started.index)
        self.faults = [fault.environment for fault in message.faults]
        if len(message.groups) != len(groups):
            raise Blocked(f"a batch of {len(message.groups)} groups came for {len(groups)}")
        self.parts = [
            self._part(group, part) for group, part in zip(groups, message.groups, strict=True)
        ]

    def figure(self) -> tuple[Any, ...]:
        """All that the same actions in the same state must give again; infos are not."""
        return tuple(
            (
                part.rows,
                sorted(part.acting),
                [(t.dtype, tuple(t.shape), t.data) for t in _figures(part.message)],
                list(part.message.final_rows.index),
            )
            for part in self.parts
        )

    def observations(self) -> tuple[Any, ...]:
        """The observations alone, and whose they are."""
        return tuple(
            (part.rows, [t.data for t in part.message.observation.tensors]) for part in self.parts
        )

    def _part(self, group: Group, message: pb.GroupBatch) -> Part:
        every = group.rows(self.envs)
        rows = list(message.rows.index) if message.HasField("rows") else every
        if not set(rows) <= set(every):
            raise Blocked(f"rows {rows} came for environments {self.envs}")
        ended: set[int] = set()
        if message.HasField("terminated") and message.HasField("truncated"):
            flags = [_unpack(flag).reshape(-1) for flag in (message.terminated, message.truncated)]
            if any(len(flag) != len(rows) for flag in flags):
                raise Blocked(f"{[len(flag) for flag in flags]} flags came for {len(rows)} rows")
            over = (flags[0] != 0) | (flags[1] != 0)
            ended = {row for row, flag in zip(rows, over.tolist(), strict=True) if flag}
        begun = set(self.started)
        going = {row for row in rows if row not in ended or row // group.agents in begun}
        acting = set(message.acting.index) if message.HasField("acting") else going
        return Part(group, message, rows, ended, going, acting)


def _figures(part: pb.GroupBatch) -> list[tensor_pb2.Tensor]:
    flags = [part.reward, part.terminated, part.truncated]
    final = part.final_observation.tensors
    return [*part.observation.tensors, *flags, *part.action_masks, *final]


def _unpack(tensor: tensor_pb2.Tensor) -> np.ndarray[Any, Any]:
    try:
        return tensors.unpack(tensor)
    except FarsimError as error:
        raise Blocked(f"a tensor of the reply can not be read: {error}") from error
