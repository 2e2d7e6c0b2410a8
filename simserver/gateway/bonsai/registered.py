"""One simulator that has registered: what it is told, what it answers, and whether it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from farsim.errors import SequenceError, SimulatorFault
from simserver.gateway.bonsai.kind import Kind

Event = dict[str, Any]

#: The member of an event that its type comes with.
_MEMBERS = {
    "EpisodeStart": "episodeStart",
    "EpisodeStep": "episodeStep",
    "EpisodeFinish": "episodeFinish",
    "Idle": "idle",
    "Unregister": "unregister",
}


def event(kind: str, session: str, sequence: int, content: Mapping[str, Any]) -> Event:
    """An event in the API's JSON."""
    return {
        "type": kind,
        "sessionId": session,
        "sequenceId": sequence,
        _MEMBERS[kind]: dict(content),
    }


@dataclass(frozen=True)
class State:
    """What a simulator says when it advances.

    Attributes:
        values: its state, as JSON had it.
        halted: whether it can not go on.
        error: what it says has gone wrong; empty for nothing.
    """

    values: Any
    halted: bool = False
    error: str = ""


class Gone(SimulatorFault):
    """The simulator has left, or has been silent for too long."""


class Registered:
    """A mailbox of one event between a session here and a simulator that asks for it.

    A simulator numbers its questions: the first as it likes, each later one as the event before
    it said. The answer to the last one is kept, so that it can be asked again.

    Args:
        session_id: the simulator's session in the API's sense.
        kind: of simulator.
        interface: what it registered with.
        timeout: how many seconds it may be silent.
        ready: called, without a lock held, when there is a state that nobody has answered.
    """

    def __init__(
        self,
        session_id: str,
        kind: Kind,
        interface: Mapping[str, Any],
        timeout: float,
        ready: Callable[[], None],
    ) -> None:
        self.session_id, self.kind, self.interface, self.timeout = (
            session_id,
            kind,
            interface,
            timeout,
        )
        self._ready = ready
        self._changed = threading.Condition()  # Reentrant.
        self._expected: int | None = None
        self._state: State | None = None
        self._answered: Event | None = None
        self._gone: tuple[str, str] | None = None
        self._waiting = 0
        self._silent_since = time.monotonic()
        #: Whether its last episode has not been finished.
        self.in_episode = False
        #: Whether an environment has it.
        self.attached = False
        #: When it registered, was last heard of, and had its last action.
        self.registered_at = self.seen_at = self.iterated_at = datetime.now(timezone.utc)

    # -- the simulator's side ---------------------------------------------------------------

    def advance(self, sequence: int, state: State, wait_seconds: float) -> Event:
        """What the simulator is to do next; Idle if nothing comes up in ``wait_seconds``.

        Raises:
            SequenceError: neither the number that is due nor the one before.
        """
        with self._changed:
            self.seen_at = datetime.now(timezone.utc)
            if self._gone is not None:
                return self._unregister(sequence)
            if self._expected is None:
                self._expected = sequence
            if self._answered is not None and sequence == self._expected - 1:
                return self._answered
            if sequence != self._expected:
                raise SequenceError(
                    f"sequenceId {sequence} is out of turn: it is {self._expected}, as the last "
                    "event said",
                    "sequenceId",
                )
            fresh = self._state is None
            if fresh:
                self._state = state
                self._changed.notify_all()
            self._waiting += 1
        if fresh:
            self._ready()
        with self._changed:
            try:
                self._changed.wait_for(
                    lambda: self._gone is not None or self._expected != sequence, wait_seconds
                )
            finally:
                self._waiting -= 1
                self._silent_since = time.monotonic()
            if self._expected == sequence + 1 and self._answered is not None:
                return self._answered
            if self._is_gone():
                return self._unregister(sequence)
            return event("Idle", self.session_id, sequence, {"callbackTime": 0})

    def last_event(self) -> Event | None:
        """The last one that was no Idle; None before."""
        with self._changed:
            return self._answered

    # -- the environment's side -------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether it waits for an event."""
        with self._changed:
            return self._state is not None and not self._is_gone()

    def receive(self) -> State:
        """The state that it is in, as soon as it tells; blocks for its time-out at most.

        Raises:
            Gone: it will not tell any more.
        """
        with self._changed:
            while not self._is_gone():
                if self._state is not None:
                    return self._state
                left = self._silent_since + self.timeout - time.monotonic()
                self._changed.wait(self.timeout if self._waiting else max(left, 0.0))
            raise self._fault()

    def send(self, kind: str, content: Mapping[str, Any]) -> None:
        """Answers its state, after ``receive``.

        Raises:
            Gone: it has gone.
        """
        with self._changed:
            if self._is_gone():
                raise self._fault()
            if self._state is None or self._expected is None:
                raise SimulatorFault(f"simulator {self.session_id} has asked for nothing")
            self._state = None
            self._expected += 1
            self._answered = event(kind, self.session_id, self._expected, content)
            if kind == "EpisodeStep":
                self.iterated_at = datetime.now(timezone.utc)
            else:
                self.in_episode = kind == "EpisodeStart"
            self._changed.notify_all()

    def finish(self, reason: str) -> None:
        """Ends its episode, if it is in one and waits to be told something."""
        with self._changed:
            if self.in_episode and self._state is not None and not self._is_gone():
                self.send("EpisodeFinish", {"reason": reason})

    # -- both -------------------------------------------------------------------------------

    def leave(self, reason: str, details: str) -> None:
        """It is no longer registered; its next question is answered with Unregister."""
        with self._changed:
            if self._gone is None:
                self._gone = reason, details
            self._changed.notify_all()

    def has_gone(self) -> bool:
        """Whether it has left or been silent for too long."""
        with self._changed:
            return self._is_gone()

    def _is_gone(self) -> bool:
        silent = time.monotonic() - self._silent_since
        if self._gone is None and not self._waiting and silent >= self.timeout:
            self._gone = "Error", f"it did not advance within {self.timeout:g} s"
        return self._gone is not None

    def _fault(self) -> Gone:
        details = self._gone[1] if self._gone else ""
        return Gone(f"simulator {self.session_id} of '{self.kind.name}' has gone: {details}")

    def _unregister(self, sequence: int) -> Event:
        reason, details = self._gone or ("Unspecified", "")
        content = {"reason": reason, "details": details}
        return event("Unregister", self.session_id, sequence, content)
