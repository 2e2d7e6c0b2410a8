"""A live client that speaks the contract by hand, to say things that the real one never would."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np

from farsim import spaces
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, tensor_pb2
from tests.agent.live.linear import ACTIONS, OBSERVATIONS

METHOD = "/farsim.v1.Policy/Live"
VERSION = "1.0"


class RawLive:
    """One call of ``Live``; sends whatever it is told to, bytes included, and numbers events.

    Args:
        channel: to the server; the caller closes it.
        next_number: of the first event that is given none.
    """

    def __init__(self, channel: grpc.Channel, next_number: int = 1, metadata: Any = None) -> None:
        self.channel = channel
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(METHOD)(
            iter(self._outbox.get, None), metadata=metadata, timeout=120
        )
        self.replies: Iterator[pb.LiveReply] = map(pb.LiveReply.FromString, self._call)
        self.next_number = next_number
        self.token = ""

    def send(self, event: pb.LiveEvent | bytes) -> bytes:
        """Sends an event, numbered if it has no number and is no ``resume``."""
        if not isinstance(event, bytes):
            if not event.sequence and not event.HasField("resume"):
                event.sequence = self.next_number
                self.next_number += 1
            event = event.SerializeToString()
        self._outbox.put(event)
        return event

    def ask(self, event: pb.LiveEvent | bytes) -> pb.LiveReply:
        self.send(event)
        return self.receive()

    def receive(self) -> pb.LiveReply:
        for reply in self.replies:
            return reply
        raise EOFError("the server ended the stream")

    def cut(self) -> None:
        """Breaks the stream without a word."""
        self._call.cancel()
        self._outbox.put(None)

    def end(self) -> None:
        """Half-closes, as a client that has nothing more to say."""
        self._outbox.put(None)

    def status(self) -> grpc.StatusCode:
        """Reads on until the stream ends, and returns how."""
        try:
            for _ in self.replies:
                pass
        except grpc.RpcError:
            pass
        return self._call.code()

    # -- what clients usually say ---------------------------------------------------------

    def hello(self, **fields: Any) -> pb.Welcome:
        reply = self.ask(hello(**fields))
        assert reply.HasField("welcome"), reply
        self.token = reply.welcome.session_token
        return reply.welcome

    def start(self, episode: int) -> None:
        assert self.ask(start(episode)).HasField("done")

    def observe(self, episode: int, *agents: pb.AgentObservation) -> pb.Actions:
        reply = self.ask(observe(episode, *agents))
        assert reply.HasField("actions"), reply
        return reply.actions

    def act(self, episode: int, seen: Any, **fields: Any) -> int:
        """The action of the only agent."""
        return action(self.observe(episode, agent(seen, **fields)))

    def refused(self, event: pb.LiveEvent | bytes) -> simulator_pb2.Error:
        reply = self.ask(event)
        assert reply.HasField("error"), reply
        return reply.error

    def finish(self, episode: int, *agents: pb.AgentObservation, aborted: bool = False) -> None:
        assert self.ask(end(episode, *agents, aborted=aborted)).HasField("done")


def hello(**fields: Any) -> pb.LiveEvent:
    return pb.LiveEvent(hello=pb.Hello(**({"protocol_version": VERSION} | fields)))


def resume(token: str) -> pb.LiveEvent:
    return pb.LiveEvent(resume=pb.ResumeLive(session_token=token, protocol_version=VERSION))


def start(episode: int) -> pb.LiveEvent:
    return pb.LiveEvent(start=pb.EpisodeStart(episode=episode))


def observe(episode: int, *agents: pb.AgentObservation) -> pb.LiveEvent:
    return pb.LiveEvent(observe=pb.Observe(episode=episode, agents=agents))


def end(episode: int, *agents: pb.AgentObservation, aborted: bool = False) -> pb.LiveEvent:
    return pb.LiveEvent(end=pb.EpisodeEnd(episode=episode, agents=agents, aborted=aborted))


def keep_alive() -> pb.LiveEvent:
    return pb.LiveEvent(keep_alive=pb.KeepAlive())


def goodbye() -> pb.LiveEvent:
    return pb.LiveEvent(goodbye=pb.Goodbye())


def agent(
    seen: Any = None,
    name: str = "",
    space: Any = OBSERVATIONS,
    logged: Any = None,
    taken: Any = None,
    action_space: Any = ACTIONS,
    **fields: Any,
) -> pb.AgentObservation:
    """What one agent sees: ``seen`` is a number that fills the observation, or all of it."""
    message = pb.AgentObservation(agent=name, **fields)
    if seen is not None:
        message.observation.CopyFrom(value(space, filled(space, seen)))
    if logged is not None:
        message.logged_action.CopyFrom(value(action_space, logged))
    if taken is not None:
        message.action_taken.CopyFrom(value(action_space, taken))
    return message


def filled(space: Any, seen: Any) -> Any:
    return np.full(space.shape, seen, space.dtype) if np.ndim(seen) == 0 else seen


def value(space: Any, *rows: Any) -> tensor_pb2.Value:
    return tensor_pb2.Value(tensors=spaces.encode(space, spaces.batch(space, rows), len(rows)))


def action(actions: pb.Actions, space: Any = ACTIONS) -> Any:
    (one,) = actions.agents
    return read(one.action, space)[0]


def read(sent: tensor_pb2.Value, space: Any = ACTIONS, rows: int = 1) -> Sequence[Any]:
    values = spaces.unbatch(space, spaces.decode(space, sent.tensors, rows), rows)
    return [one.item() if np.ndim(one) == 0 else one for one in values]
