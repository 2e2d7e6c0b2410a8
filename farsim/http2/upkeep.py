"""The thread that looks after connections while nobody uses them."""

from __future__ import annotations

import os
import threading
import time

from farsim.http2.events import Broken
from farsim.http2.link import Link

#: How often it looks; servers wait for the answer to a ping for ten seconds and more.
_EVERY_SECONDS = 1.0

_lock = threading.RLock()
_wake = threading.Condition(_lock)
#: How long each may be silent.
_links: dict[Link, float] = {}
_thread: threading.Thread | None = None


def look_after(link: Link, keepalive_seconds: float) -> None:
    """Answers pings on a link that nobody waits for, and pings the peer when all is silent.

    Routers forget connections on which nothing moves, and servers break them whose clients do not
    answer; both while a learner learns.

    Args:
        link: as the client; until ``leave_alone``, or until it breaks.
        keepalive_seconds: how long it may be silent.
    """
    global _thread
    with _lock:
        _links[link] = keepalive_seconds
        if _thread is None:
            _thread = threading.Thread(target=_run, name="farsim upkeep", daemon=True)
            _thread.start()


def leave_alone(link: Link) -> None:
    """Ends what ``look_after`` began, and the thread with the last one."""
    with _lock:
        _links.pop(link, None)
        if not _links:
            _wake.notify_all()


def _forget() -> None:
    """In a process that was forked: the connections are the other one's, and so is the thread."""
    global _lock, _wake, _thread
    _lock = threading.RLock()
    _wake = threading.Condition(_lock)
    _thread = None
    _links.clear()


os.register_at_fork(after_in_child=_forget)


def _run() -> None:
    global _thread
    while True:
        with _lock:
            if _links:
                _wake.wait(_EVERY_SECONDS)
            if not _links:
                _thread = None
                return
            links = list(_links.items())
        for link, keepalive_seconds in links:
            if not _is_well(link, keepalive_seconds):
                leave_alone(link)


def _is_well(link: Link, keepalive_seconds: float) -> bool:
    if not link.lock.acquire(blocking=False):
        return True  # Someone waits for it, and answers what has to be answered.
    try:
        # One that takes nothing, or never ends, must not keep the others waiting.
        until = time.monotonic() + _EVERY_SECONDS
        while link.has_room(None) and link.pump(0) and time.monotonic() < until:
            pass
        if link.has_room(None) and time.monotonic() - link.moved_at > keepalive_seconds:
            link.ping()
    except Broken:
        return False  # Whoever uses it next is told.
    finally:
        link.lock.release()
    return True
