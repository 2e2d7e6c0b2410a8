"""What a server allows its clients together."""

from __future__ import annotations

from dataclasses import dataclass

from farsim.v1 import simulator_pb2 as pb


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client from costing the others anything.

    Attributes:
        max_sessions: sessions at one time.
        max_environments: environments at one time, over all sessions.
        max_message_bytes: size of one message either way.
        max_in_flight: requests of one session without a reply, and how many replies it keeps
            for repeated requests.
        lease_seconds: how long a session outlives its stream, at most and by default.
        heartbeat_seconds: the longest silence during a long request, by default.
        max_step_seconds: a request that takes longer makes the process exit with code 70, so
            that whoever supervises it starts a fresh one; 0 for no bound.
    """

    max_sessions: int = 64
    max_environments: int = 4096
    max_message_bytes: int = 64 * 1024 * 1024
    max_in_flight: int = 16
    lease_seconds: float = 60.0
    heartbeat_seconds: float = 2.0
    max_step_seconds: float = 0.0

    def to_proto(self) -> pb.Limits:
        return pb.Limits(
            max_sessions=self.max_sessions,
            max_environments=self.max_environments,
            max_message_bytes=self.max_message_bytes,
            max_in_flight=self.max_in_flight,
        )
