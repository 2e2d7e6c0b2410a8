"""What a server of policies allows its clients, together and each."""

from __future__ import annotations

from dataclasses import dataclass

from farsim.v1 import simulator_pb2 as pb


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client from costing the others anything.

    Attributes:
        max_sessions: sessions at one time.
        max_episodes: episodes at one time, over all sessions.
        max_session_episodes: episodes of one session at one time.
        max_agents: of one episode, which bounds what names a client can make up.
        max_rows: observations in one unary call.
        max_message_bytes: size of one message either way.
        max_in_flight: events of one session without a reply, and how many replies it keeps for
            repeated events. Further events wait in the network.
        lease_seconds: how long a session outlives its stream, at most and by default.
        idle_seconds: a session that is silent for so long is closed.
        open_seconds: a stream that has opened no session by then is ended.
        max_batch: observations in one forward pass; a unary call with more rows gets its own.
        max_wait_seconds: how long an observation waits, at most, for others to join its batch.
    """

    max_sessions: int = 4096
    max_episodes: int = 65536
    max_session_episodes: int = 4096
    max_agents: int = 1024
    max_rows: int = 4096
    max_message_bytes: int = 64 * 1024 * 1024
    max_in_flight: int = 16
    lease_seconds: float = 60.0
    idle_seconds: float = 300.0
    open_seconds: float = 60.0
    max_batch: int = 256
    max_wait_seconds: float = 0.002

    def to_proto(self) -> pb.Limits:
        return pb.Limits(
            max_sessions=self.max_sessions,
            max_environments=self.max_episodes,
            max_message_bytes=self.max_message_bytes,
            max_in_flight=self.max_in_flight,
        )
