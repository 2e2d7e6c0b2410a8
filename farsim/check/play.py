"""One session with the server under test, which keeps count of numbers, episodes and turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from farsim import spaces
from farsim.check import samples
from farsim.check.batches import Group, View
from farsim.check.stream import Stream, StreamEnded, code_name, told
from farsim.check.verdicts import Blocked, Broken
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

Tensors = list[tensor_pb2.Tensor]


class Play:
    """A session that has been opened.

    Two of them, opened and driven alike, draw the same actions as long as the server answers
    alike.

    Args:
        stream: that carries it.
        opened: the server's reply to ``open``.
        count: how many environments it has.
    """

    def __init__(self, stream: Stream, opened: pb.Opened, count: int) -> None:
        self.stream, self.opened, self.count = stream, opened, count
        self.sequence = 1
        self.closed = False
        self.groups = [Group.read(group) for group in opened.groups]
        for number, group in enumerate(self.groups):
            group.action_space.seed(number)
        self.going: list[set[int]] = [set() for _ in self.groups]
        self.acting: list[set[int]] = [set() for _ in self.groups]
        self._masks: list[dict[int, list[Any]]] = [{} for _ in self.groups]

    # -- requests -------------------------------------------------------------------------

    def next(self, **request: Any) -> pb.SimRequest:
        """The session's next request."""
        self.sequence += 1
        return pb.SimRequest(sequence=self.sequence, **request)

    def ask(self, **request: Any) -> pb.SimReply:
        """Sends the next request, and returns its reply.

        Raises:
            Blocked: there is no reply.
        """
        self.stream.send(self.next(**request))
        return self.answer(next(iter(request)))

    def answer(self, what: str) -> pb.SimReply:
        """The next reply, to a request called ``what``."""
        try:
            return self.stream.receive()[1]
        except StreamEnded as ended:
            raise Blocked(f"to '{what}' came {ended}") from ended

    def refused(self, codes: Iterable[int], sent: str, **request: Any) -> pb.Error:
        """Sends a request that must get an error.

        Raises:
            Broken: it gets none, or one with another code than ``codes``.
        """
        return self.refused_exactly(codes, sent, self.next(**request))

    def refused_exactly(self, codes: Iterable[int], sent: str, request: pb.SimRequest) -> pb.Error:
        """As ``refused``, for a request with a number of its own."""
        self.stream.send(request)
        return expect_error(self.stream, codes, sent)

    # -- episodes -------------------------------------------------------------------------

    def reset(
        self,
        envs: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        **fields: Any,
    ) -> View:
        """Starts episodes, of all environments by default.

        Raises:
            Blocked: the reply is no batch that can be read.
        """
        request = pb.Reset(environments=_rows(envs), seeds=seeds or (), **fields)
        return self.see("reset", self.ask(reset=request), envs)

    def act(self, envs: Sequence[int] | None = None) -> View:
        """A step with allowed actions.

        Raises:
            Blocked: the reply is no batch that can be read.
        """
        return self.step(self.draw(envs), envs)

    def step(self, actions: Sequence[Tensors], envs: Sequence[int] | None = None) -> View:
        """A step with these tensors for each group, for all agents of ``envs``."""
        return self.see("step", self.ask(step=step_of(actions, envs)), envs)

    def draw(self, envs: Sequence[int] | None = None) -> list[Tensors]:
        """Allowed actions of all agents of ``envs``: for each group the tensors."""
        drawn = []
        for number, group in enumerate(self.groups):
            rows = group.rows(self.every(envs))
            masks = self._masks[number]
            values = [
                samples.allowed(group.action_space, iter(masks[row]) if row in masks else None)
                for row in rows
            ]
            batched = spaces.batch(group.action_space, values)
            drawn.append(spaces.encode(group.action_space, batched, len(rows)))
        return drawn

    def see(self, what: str, reply: pb.SimReply, envs: Sequence[int] | None = None) -> View:
        """Takes note of a batch about ``envs``.

        Raises:
            Blocked: it is none, or can not be read.
        """
        if not reply.HasField("batch"):
            raise Blocked(f"'{what}' got {told(reply)}")
        view = View(self.groups, self.every(envs), reply.batch)
        for number, part in enumerate(view.parts):
            every = set(part.group.rows(view.envs))
            self.going[number] = (self.going[number] - every) | part.going
            self.acting[number] = (self.acting[number] - every) | part.acting
            for row in every:
                self._masks[number].pop(row, None)
            if part.group.message.has_action_mask and part.message.action_masks:
                masks = part.masks()
                self._masks[number].update(
                    {row: [mask[at] for mask in masks] for at, row in enumerate(part.rows)}
                )
        return view

    def over(self) -> set[int]:
        """The environments that no agent's episode goes on in."""
        running = {
            row // group.agents
            for group, rows in zip(self.groups, self.going, strict=True)
            for row in rows
        }
        return set(range(self.count)) - running

    def every(self, envs: Sequence[int] | None) -> list[int]:
        """``envs``, which by default are all."""
        return list(range(self.count)) if envs is None else list(envs)

    def somebody(self) -> tuple[int, int]:
        """A group and a row of it that is to act.

        Raises:
            Blocked: there is none.
        """
        for number, rows in enumerate(self.acting):
            if rows:
                return number, min(rows)
        raise Blocked("no agent is to act, right after a reset")

    def close(self) -> None:
        """Asks the server to free the environments, and does not mind if it can not."""
        if self.closed or self.stream.over:
            return
        with suppress(Blocked):
            self.ask(close=pb.Close())
        self.stream.cut()
        self.closed = True


def expect_error(stream: Stream, codes: Iterable[int], sent: str) -> pb.Error:
    """The error that comes next.

    Raises:
        Broken: something else comes.
    """
    names = " or ".join(code_name(code) for code in codes)
    try:
        reply = stream.receive()[1]
    except StreamEnded as ended:
        raise Broken(sent, names, str(ended)) from ended
    if not reply.HasField("error") or reply.error.code not in codes:
        raise Broken(sent, names, told(reply))
    return reply.error


def step_of(
    actions: Sequence[Tensors],
    envs: Sequence[int] | None = None,
    rows: Sequence[Sequence[int]] | None = None,
) -> pb.Step:
    """A step; with ``rows``, for each group the rows that its actions are of."""
    message = pb.Step(environments=_rows(envs))
    for number, group in enumerate(actions):
        sent = message.groups.add(actions=tensor_pb2.Value(tensors=group))
        if rows is not None:
            sent.rows.SetInParent()
            sent.rows.index.extend(rows[number])
    return message


def of_rows(group: Group, batch: Tensors, count: int, places: Sequence[int]) -> Tensors:
    """The actions at some places of a batch of ``count``."""
    values = spaces.decode(group.action_space, batch, count)
    taken = spaces.take(group.action_space, values, np.array(places, np.int64))
    return spaces.encode(group.action_space, taken, len(places))


def _rows(envs: Sequence[int] | None) -> tensor_pb2.Rows | None:
    return None if envs is None else tensor_pb2.Rows(index=envs)
