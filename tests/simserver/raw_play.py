"""A session with several groups, played by hand: raw requests, and replies as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from farsim import tensors
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from tests.raw_client import RawStream, opening


@dataclass
class Part:
    """One group's side of a reply, whose observation is one array."""

    rows: list[int]
    observation: np.ndarray
    reward: list[float] | None
    ended: list[int]
    acting: list[int] | None
    masks: list[np.ndarray]
    infos: dict[str, Any]
    final_rows: list[int]
    final_observation: np.ndarray | None

    def at(self, row: int) -> list[Any]:
        return self.observation[self.rows.index(row)].tolist()

    def reward_of(self, row: int) -> float:
        return self.reward[self.rows.index(row)]


@dataclass
class Reply:
    parts: list[Part]
    faults: list[int]
    started: list[int]


class Play:
    """One session; ``act`` and ``reset`` raise ``AssertionError`` on an error reply."""

    def __init__(self, stream: RawStream, simulator: str, count: int, **fields: Any) -> None:
        self._stream, self._count, self._sequence = stream, count, 1
        self.opened = stream.ask(opening(simulator, count, **fields)).opened
        assert self.opened.session_token

    def reset(self, **fields: Any) -> Reply:
        return self._read(self.ask(reset=pb.Reset(**fields)))

    def act(self, *sent: Any, envs: Sequence[int] | None = None) -> Reply:
        """Steps; for each group an array for all agents, or a pair of rows and actions."""
        return self._read(self.ask(step=step(*sent, envs=envs)))

    def refused(self, *sent: Any, envs: Sequence[int] | None = None) -> pb.Error:
        reply = self.ask(step=step(*sent, envs=envs))
        assert reply.HasField("error"), "the step was carried out"
        return reply.error

    def ask(self, **request: Any) -> pb.SimReply:
        self._sequence += 1
        return self._stream.ask(pb.SimRequest(sequence=self._sequence, **request))

    def _read(self, reply: pb.SimReply) -> Reply:
        assert reply.HasField("batch"), reply
        batch = reply.batch
        envs = np.array(batch.environments.index) if batch.HasField("environments") else None
        parts = [
            _part(part, len(group.agents), np.arange(self._count) if envs is None else envs)
            for group, part in zip(self.opened.groups, batch.groups, strict=True)
        ]
        return Reply(
            parts, [fault.environment for fault in batch.faults], list(batch.started.index)
        )


@contextmanager
def playing(address: str, simulator: str, count: int, **fields: Any) -> Iterator[Play]:
    """A session on a channel of its own."""
    with grpc.insecure_channel(address) as channel:
        yield Play(RawStream(channel), simulator, count, **fields)


def step(*sent: Any, envs: Sequence[int] | None = None) -> pb.Step:
    message = pb.Step()
    for each in sent:
        group = message.groups.add()
        if isinstance(each, tuple):
            group.rows.SetInParent()
            group.rows.index.extend(each[0])
            each = each[1]
        array = each if isinstance(each, np.ndarray) else np.array(each, np.int64)
        group.actions.CopyFrom(tensor_pb2.Value(tensors=[tensors.pack(array)]))
    if envs is not None:
        message.environments.index.extend(envs)
    return message


def _part(part: pb.GroupBatch, agents: int, envs: np.ndarray) -> Part:
    every = (envs[:, None] * agents + np.arange(agents)).reshape(-1).tolist()
    rows = list(part.rows.index) if part.HasField("rows") else every
    reward, ended = None, []
    if part.HasField("reward"):
        reward = tensors.unpack(part.reward).tolist()
        over = tensors.unpack(part.terminated) | tensors.unpack(part.truncated)
        ended = np.array(rows)[over].tolist()
    infos = {
        info.name: (
            list(info.rows.index) if info.HasField("rows") else list(range(len(rows))),
            list(info.texts.texts)
            if info.WhichOneof("values") == "texts"
            else tensors.unpack(info.tensor).tolist(),
        )
        for info in part.infos
    }
    final = part.final_observation.tensors
    return Part(
        rows,
        tensors.unpack(part.observation.tensors[0]),
        reward,
        ended,
        list(part.acting.index) if part.HasField("acting") else None,
        [tensors.unpack(mask) for mask in part.action_masks],
        infos,
        list(part.final_rows.index),
        tensors.unpack(final[0]) if final else None,
    )
