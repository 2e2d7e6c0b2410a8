"""Where a session's environments are: opening it, and opening it again after it was lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.vector import AutoresetMode

from agent.description import Group
from agent.session import Session
from farsim import spaces
from farsim.channel import ConnectionOptions, backoff
from farsim.errors import (
    DeadlineExceeded,
    Draining,
    FarsimError,
    LimitExceeded,
    ServerUnavailable,
    SessionLost,
    SpaceMismatch,
)

logger = logging.getLogger(__name__)

#: What may be over a moment later; anything else is a mistake in what is asked for.
_PASSING = (DeadlineExceeded, Draining, LimitExceeded, ServerUnavailable, SessionLost)


@dataclass(frozen=True)
class Wish:
    """What sessions are opened with; as the arguments of ``Session.open``.

    Attributes:
        fleet: who opens them, the same for all of them; told to gateways, which may then end a
            session so that another one is opened where there is more room. Empty: they may not.
    """

    simulator: str
    options: Mapping[str, Any]
    autoreset_mode: AutoresetMode
    render_mode: str | None
    connection: ConnectionOptions
    fleet: str = ""


class Placement:
    """Opens one session after the other for the same environments.

    Args:
        addresses: where they may run; the first is where they belong, and is tried alone for
            ``failover_seconds`` before the others are.
        wish: what to open.
        num_envs: how many environments.
    """

    def __init__(self, addresses: Sequence[str], wish: Wish, num_envs: int) -> None:
        self.addresses = list(dict.fromkeys(addresses))
        self.wish = wish
        self.num_envs = num_envs
        #: The agents and spaces that the first session had; empty before.
        self._groups: tuple[Group, ...] = ()
        self._had_one = False
        self._given_up = threading.Event()

    def expect(self, groups: Sequence[Group]) -> None:
        """Takes only sessions with these agents and spaces."""
        self._groups = tuple(groups)

    def give_up(self) -> None:
        """Makes ``open`` end soon, and for ever, with ``ServerUnavailable``."""
        self._given_up.set()

    def open(self) -> Session:
        """A session on the first address that takes it, within ``recovery_seconds``.

        The first time a mistake in what is asked for is an error at once. Later it counts as one
        more reason to try elsewhere: a server may be replaced by a wrong one for a while.

        Raises:
            ServerUnavailable: none takes it; names all addresses and what each said last.
        """
        patience = self.wish.connection
        begun = time.monotonic()
        reasons: dict[str, FarsimError] = {}
        delays = backoff(first=0.1, longest=5.0)
        while True:
            alone = time.monotonic() - begun < patience.failover_seconds
            for address in self.addresses[:1] if alone else self.addresses:
                try:
                    return self._open_at(address)
                except FarsimError as error:
                    if not self._groups and not isinstance(error, _PASSING):
                        raise
                    reasons[address] = error
            delay = next(delays)
            if time.monotonic() + delay - begun > patience.recovery_seconds:
                break
            if self._given_up.wait(delay):
                break
        tried = "; ".join(f"{address}: {error}" for address, error in reasons.items())
        raise ServerUnavailable(
            f"no server took {self.num_envs} environments within {patience.recovery_seconds:g} s. "
            f"Tried {tried}",
            ", ".join(reasons),
        )

    def _open_at(self, address: str) -> Session:
        wish = self.wish
        session = Session.open(
            address,
            wish.simulator,
            self.num_envs,
            wish.options,
            wish.autoreset_mode,
            wish.render_mode,
            wish.connection,
            wish.fleet,
        )
        try:
            check_same(self._groups or session.groups, session)
        except BaseException:
            session.close()
            raise
        if self._had_one:
            logger.warning("%s has taken %d lost environments", address, self.num_envs)
        self._groups, self._had_one = session.groups, True
        return session


def check_same(expected: Sequence[Group], session: Session) -> None:
    """Raises ``SpaceMismatch`` unless the session's agents and spaces are those expected."""
    found = []
    if [group.agents for group in expected] != [group.agents for group in session.groups]:
        found.append("other agents")
    for here, there in zip(expected, session.groups, strict=False):
        found += spaces.differences(here.observation_space, there.observation_space, "observation")
        found += spaces.differences(here.action_space, there.action_space, "action")
        if here.has_action_mask != there.has_action_mask:
            found.append("action masks on one side only")
    if found:
        raise SpaceMismatch(
            f"the simulator at {session.address} is not like the others: {found[0]}",
            session.address,
        )
