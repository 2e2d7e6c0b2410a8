"""Which session to move, so that all attached servers have about as many."""

from __future__ import annotations

import time

from agent.gateway.attach.clients import ClientStream
from agent.gateway.attach.roster import EXPECTED_SECONDS, Held, Roster, Server

#: How long a fleet that got room has to take it before it gets more, s.
_FED_SECONDS = 10.0


class Balance:
    """Decides, one session at a time, what is to move; only sessions whose clients allow it.

    Args:
        roster: of the gateway.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        #: Fleets without a session for which room was made, until when that counts.
        self._fed: dict[str, float] = {}

    def next_move(self) -> ClientStream | None:
        """The stream whose session is to move now; None if all is well."""
        for simulator in self._roster.offered():
            servers = self._roster.offering(simulator)
            held = self._uneven(servers, simulator) or self._unfair(servers, simulator)
            if held is not None:
                return held.stream
        return None

    @staticmethod
    def _uneven(servers: list[Server], simulator: str) -> Held | None:
        """A session of the server with the most, if another has two less and room."""
        roomy = [server for server in servers if server.has_room]
        rich = [server for server in servers if _movable(server, simulator)]
        if not roomy or not rich:
            return None
        poorest = min(roomy, key=lambda server: server.load() + server.still_expected())
        richest = max(rich, key=lambda server: server.load())
        coming = poorest.still_expected()
        if poorest.load() + coming >= poorest.seats:
            return None
        if richest.load() - (poorest.load() + coming) < 2:
            return None
        held = _movable(richest, simulator)[-1]
        poorest.expected.append((held.fleet, time.monotonic() + EXPECTED_SECONDS))
        return held

    def _unfair(self, servers: list[Server], simulator: str) -> Held | None:
        """A session of the fleet with the most, if another waits and has none."""
        now = time.monotonic()
        self._fed = {fleet: until for fleet, until in self._fed.items() if until > now}
        starving = [
            fleet
            for fleet in self._roster.waiting_fleets()
            if not self._roster.sessions_of(fleet) and fleet not in self._fed
        ]
        movable = [held for server in servers for held in _movable(server, simulator)]
        by_fleet: dict[str, list[Held]] = {}
        for held in movable:
            by_fleet.setdefault(held.fleet, []).append(held)
        richest = max(by_fleet.values(), key=len, default=[])
        if not starving or len(richest) < 2:
            return None
        self._fed[starving[0]] = now + _FED_SECONDS
        return richest[-1]


def _movable(server: Server, simulator: str) -> list[Held]:
    return [
        held
        for held in server.sessions.values()
        if held.simulator == simulator and held.stream is not None and held.stream.can_move
    ]
