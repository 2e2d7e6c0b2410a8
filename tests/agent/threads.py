"""Threads that a test has started."""

import threading

#: How long one that has been told to end may take to do so on a busy machine.
_SECONDS = 10.0


def new_threads(before: set[threading.Thread]) -> list[str]:
    """Threads since then that still run; those of earlier tests may end meanwhile."""
    return [thread.name for thread in threading.enumerate() if thread not in before]


def lasting_threads(before: set[threading.Thread]) -> list[str]:
    """Threads since then that do not end, though they should have been told to."""
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(_SECONDS)
    return [thread.name for thread in new if thread.is_alive()]
