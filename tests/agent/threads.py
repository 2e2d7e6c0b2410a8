"""Threads that a test has started."""

import threading


def new_threads(before: set[threading.Thread]) -> list[str]:
    """Threads since then that still run; those of earlier tests may end meanwhile."""
    return [thread.name for thread in threading.enumerate() if thread not in before]
