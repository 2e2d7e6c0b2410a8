"""One live session with the server under test, which keeps count of its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from farsim.check.policy.stream import LiveStream, told
from farsim.check.stream import StreamEnded, code_name
from farsim.check.verdicts import Blocked, Broken
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2


class LiveSession:
    """A session that has been opened.

    Args:
        stream: that carries it.
        welcome: the server's reply to ``hello``.
    """

    def __init__(self, stream: LiveStream, welcome: pb.Welcome) -> None:
        self.stream, self.welcome = stream, welcome
        self.sequence = 1

    def next(self, **event: Any) -> pb.LiveEvent:
        """The session's next event."""
        self.sequence += 1
        return pb.LiveEvent(sequence=self.sequence, **event)

    def ask(self, **event: Any) -> pb.LiveReply:
        """Sends the next event, and returns its reply.

        Raises:
            Blocked: there is none, or it has another number.
        """
        self.stream.send(self.next(**event))
        return self.answer(next(iter(event)))

    def answer(self, what: str) -> pb.LiveReply:
        """The reply to the last event that was sent.

        Raises:
            Blocked: there is none, or it has another number.
        """
        try:
            reply = self.stream.receive()[1]
        except StreamEnded as ended:
            raise Blocked(f"to '{what}' came {ended}") from ended
        if reply.sequence != self.sequence:
            raise Blocked(f"'{what}' number {self.sequence} got a reply to {reply.sequence}")
        return reply

    def start(self, episode: int) -> None:
        """Raises ``Blocked`` if the episode does not start."""
        reply = self.ask(start=pb.EpisodeStart(episode=episode))
        if not reply.HasField("done"):
            raise Blocked(f"'start' got {told(reply)}")

    def finish(self, episode: int, aborted: bool = False) -> None:
        """Raises ``Blocked`` if the episode does not end."""
        reply = self.ask(end=pb.EpisodeEnd(episode=episode, aborted=aborted))
        if not reply.HasField("done"):
            raise Blocked(f"'end' got {told(reply)}")

    def observe(self, episode: int, *agents: pb.AgentObservation) -> Sequence[pb.AgentAction]:
        """The actions in the reply.

        Raises:
            Blocked: there are none.
        """
        reply = self.ask(observe=pb.Observe(episode=episode, agents=agents))
        if not reply.HasField("actions"):
            raise Blocked(f"'observe' got {told(reply)}")
        return reply.actions.agents

    def act(self, episode: int, agent: pb.AgentObservation) -> pb.AgentAction:
        """The one action in the reply.

        Raises:
            Blocked: there is none, or there are several.
        """
        actions = self.observe(episode, agent)
        if len(actions) != 1:
            raise Blocked(f"'observe' with one agent that is to act got {len(actions)} actions")
        return actions[0]

    def refused(self, codes: Iterable[int], sent: str, **event: Any) -> simulator_pb2.Error:
        """The error that the next event gets.

        Raises:
            Broken: it gets none of these.
        """
        self.stream.send(self.next(**event))
        return expect_error(self.stream, codes, sent)

    def close(self) -> None:
        """Says goodbye, and does not mind if nobody listens."""
        if self.stream.over:
            return
        with suppress(Blocked):
            self.ask(goodbye=pb.Goodbye())
        self.stream.cut()


def expect_error(stream: LiveStream, codes: Iterable[int], sent: str) -> simulator_pb2.Error:
    """The error that comes next.

    Raises:
        Broken: something else comes.
    """
    expected = list(codes)
    names = " or ".join(code_name(code) for code in expected)
    try:
        reply = stream.receive()[1]
    except StreamEnded as ended:
        raise Broken(sent, names, str(ended)) from ended
    if not reply.HasField("error") or reply.error.code not in expected:
        raise Broken(sent, names, told(reply))
    return reply.error
