"""All simulators that have registered, by kind; and which environment has which."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from farsim.errors import FarsimError, InvalidArgument, LimitExceeded
from simserver.catalogue import Entry
from simserver.gateway.bonsai.kind import Kind, Rules
from simserver.gateway.bonsai.registered import Registered
from simserver.simulator import BatchSimulator

logger = logging.getLogger(__name__)

#: What the API says where a simulator leaves its time-out open, in seconds.
DEFAULT_TIMEOUT = 60.0
_SWEEP_SECONDS = 0.5


class UnknownSession(FarsimError, LookupError):
    """No simulator is registered under this id."""


@dataclass(frozen=True)
class Waits:
    """How long is waited for what, in seconds.

    Attributes:
        deal: for all simulators of a session that is opened.
        replace: for one in the place of one that has gone.
        idle: before a simulator that asks is told to ask again.
        longest_silence: whatever time-out a simulator registers with.
    """

    deal: float = 120.0
    replace: float = 10.0
    idle: float = 10.0
    longest_silence: float = 600.0


@dataclass(frozen=True)
class KindEntry(Entry):
    """A kind of simulator on offer; describing it takes none of the simulators."""

    describe: Callable[[], BatchSimulator] = field(default=lambda: NotImplemented)

    @cached_property
    def sample(self) -> BatchSimulator:
        return self.describe()


class Workspace:
    """Registered simulators, to be dealt to environments.

    Args:
        rules: for the simulators of each name; those of "" for all others.
        waits: how long for what.

    Attributes:
        entries: a simulator on offer for each kind that is known; grows.
        waits: how long for what.
    """

    def __init__(self, rules: Mapping[str, Rules], waits: Waits) -> None:
        self.waits = waits
        self.entries: dict[str, Entry] = {}
        self._rules = dict(rules)
        self._kinds: dict[str, Kind] = {}
        self._sessions: dict[str, Registered] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        for name, one in rules.items():
            one.check()
            if one.interface is not None:
                own = str(one.interface.get("name") or "")
                self._offer(name or own, one.interface.get("description"), one)
        threading.Thread(target=self._sweep, name="simulators", daemon=True).start()

    # -- registering ------------------------------------------------------------------------

    def register(self, interface: Mapping[str, Any]) -> Registered:
        """Takes a simulator in.

        Args:
            interface: name, description, timeout and context, as the API has them.

        Raises:
            FarsimError: it can not be used; says why.
        """
        name = interface.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidArgument("the interface needs a name", "name")
        timeout = interface.get("timeout") or DEFAULT_TIMEOUT
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidArgument(f"timeout is {timeout!r}, not a number of seconds", "timeout")
        kind = self._kind(name, interface.get("description"))
        registered = Registered(
            secrets.token_hex(16),
            kind,
            interface,
            min(float(timeout), self.waits.longest_silence),
            self._notify,
        )
        with self._changed:
            if self._closed.is_set():
                raise LimitExceeded("the gateway is about to stop")
            self._sessions[registered.session_id] = registered
        logger.info("a simulator '%s' has registered: %s", name, registered.session_id)
        return registered

    def find(self, session_id: str) -> Registered:
        """The simulator of this id.

        Raises:
            UnknownSession: there is none, or it has gone.
        """
        with self._changed:
            registered = self._sessions.get(session_id)
        if registered is None:
            raise UnknownSession(
                f"no simulator is registered as {session_id}: it was removed, was silent for "
                "longer than its timeout, or the gateway has started anew; register again",
                session_id,
            )
        return registered

    def all(self) -> list[Registered]:
        """Those that are registered, the first first."""
        with self._changed:
            return list(self._sessions.values())

    def remove(self, registered: Registered, reason: str, details: str) -> None:
        """A simulator leaves, or is made to."""
        registered.leave(reason, details)
        with self._changed:
            self._sessions.pop(registered.session_id, None)
            self._changed.notify_all()
        logger.info("simulator %s has gone: %s", registered.session_id, details)

    # -- dealing ----------------------------------------------------------------------------

    def deal(self, kind: Kind, count: int, wait_seconds: float) -> list[Registered]:
        """``count`` simulators that wait for an episode, all at once or none.

        Raises:
            LimitExceeded: there were not enough in time.
        """
        deadline = time.monotonic() + wait_seconds
        with self._changed:
            while not self._closed.is_set():
                free = [
                    each
                    for each in self._sessions.values()
                    if each.kind is kind and not each.attached and each.is_ready()
                ]
                if len(free) >= count:
                    for each in free[:count]:
                        each.attached = True
                    return free[:count]
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            known = sum(each.kind is kind for each in self._sessions.values())
        raise LimitExceeded(
            f"{count} simulators '{kind.name}' are needed, and after {wait_seconds:g} s "
            f"{len(free) if not self._closed.is_set() else 0} of the {known} that are registered "
            "are free: start more of them, or open sessions with fewer environments"
        )

    def give_back(self, registered: Registered) -> None:
        """An environment needs it no longer."""
        registered.finish("Interrupted")
        with self._changed:
            registered.attached = False
            self._changed.notify_all()

    def stop_dealing(self) -> None:
        """Whoever waits for simulators is told that there are none."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def close(self) -> None:
        """Tells all simulators that it is over."""
        self.stop_dealing()
        for registered in self.all():
            self.remove(registered, "Finished", "the gateway stops")

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_SECONDS):
            for registered in self.all():
                if registered.has_gone():
                    self.remove(registered, "Error", "it did not advance in time")

    # -- kinds ------------------------------------------------------------------------------

    def _kind(self, name: str, description: Any) -> Kind:
        with self._changed:
            known = self._kinds.get(name)
            if known is None:
                rules = self._rules.get(name, self._rules.get("", Rules()))
                if rules.interface is not None:
                    raise InvalidArgument(
                        f"this gateway is for '{', '.join(self._kinds)}', not '{name}'", "name"
                    )
                return self._offer(name, description, rules)
        if known.rules.interface is None:
            _same(known, description)
        return known

    def _offer(self, name: str, description: Any, rules: Rules) -> Kind:
        from simserver.gateway.bonsai.simulator import BonsaiSimulator

        kind = Kind(name, description, rules)

        def build(num_envs: int, **options: Any) -> BatchSimulator:
            dealt = self.deal(kind, num_envs, self.waits.deal)
            return BonsaiSimulator(kind, self, dealt, options)

        def describe() -> BatchSimulator:
            defaults = {parameter.name: parameter.default for parameter in kind.parameters}
            return BonsaiSimulator(kind, self, [], defaults)

        self._kinds[name] = kind
        about = f"{name}, through the Bonsai simulator API"
        self.entries[name] = KindEntry(name, build, kind.parameters, about, describe)
        return kind


def _same(known: Kind, description: Any) -> None:
    """Raises ``InvalidArgument`` unless the spaces are those of the simulators before."""
    ours, theirs = (json.dumps(each, sort_keys=True) for each in (known.description, description))
    if ours == theirs:
        return
    try:
        other = Kind(known.name, description, known.rules)
    except FarsimError:
        same = False  # What it has none of, the rules may need.
    else:
        same = (known.group, known.parameters) == (other.group, other.parameters)
    if not same:
        raise InvalidArgument(
            f"simulators '{known.name}' have registered with another description of state, action "
            "or config: give this one another name",
            "description",
        )
