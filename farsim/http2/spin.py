"""Waiting for a message without letting the processor fall asleep."""

from __future__ import annotations

import os
import select
import threading
import time

#: As long as the system can be told to wait, roughly, and longer than anybody does.
_LONGEST_SECONDS = 1e6
#: Giving way to nobody takes less; more says that others want the processor, or the interpreter.
_OTHERS_SECONDS = 0.5e-3
#: How long they are then left alone. What a wait that gives way costs is a slice of theirs.
_REST_SECONDS = 0.1

#: Held by the thread that spins: two in one process would only wait for each other.
_turn = threading.Lock()


class Spin:
    """How one connection waits.

    A processor that has nothing to do sleeps, and on many virtual machines waking it takes longer
    than a small message takes to arrive, and leaves its caches cold. A wait that is likely to be
    short can ask again and again instead, which costs the processor's time and nobody else's: as
    soon as others want it, or when messages come at a slower pace, it sleeps as usual.

    Args:
        limit_seconds: how long to ask before sleeping; 0 sleeps at once.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        #: Whether the last wait was short enough that asking would have done.
        self._is_likely = True
        self._rests_until = 0.0

    def wait(self, poll: select.poll, seconds: float | None) -> bool:
        """Whether ``poll`` finds something within ``seconds``, or ever if None."""
        limit = self._limit
        if not limit or (seconds is not None and seconds <= limit):
            return bool(poll.poll(_milliseconds(seconds)))
        begun = time.monotonic()
        if self._is_likely and begun > self._rests_until and self._spin(poll, begun):
            return True
        left = None if seconds is None else seconds - (time.monotonic() - begun)
        found = bool(poll.poll(_milliseconds(left)))
        self._is_likely = time.monotonic() - begun <= limit
        return found

    def _spin(self, poll: select.poll, begun: float) -> bool:
        if not _turn.acquire(blocking=False):
            return False
        try:
            until, now = begun + self._limit, begun
            while now < until:
                if poll.poll(0):
                    return True
                os.sched_yield()
                before, now = now, time.monotonic()
                if now - before > _OTHERS_SECONDS:
                    self._rests_until = now + _REST_SECONDS
                    return False
            return False
        finally:
            _turn.release()


def _milliseconds(seconds: float | None) -> int | None:
    """As ``poll`` takes them, rounded up."""
    return None if seconds is None else -int(-1000 * min(seconds, _LONGEST_SECONDS) // 1)
