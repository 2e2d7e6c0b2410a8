"""One thread for all calls whose own threads are at work in simulators."""

from __future__ import annotations

import logging
import threading
import time

from simserver.direct.stream import DirectStream
from simserver.service import SimulatorService

logger = logging.getLogger(__name__)


class Keeper:
    """Sends heartbeats, answers pings and notices who hangs up while requests are carried out.

    Its thread lives as long as there are calls.

    Args:
        service: what to tell of calls that are over.
        bound: how many requests of a call may wait.
    """

    def __init__(self, service: SimulatorService, bound: int) -> None:
        self._service, self._bound = service, bound
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._streams: set[DirectStream] = set()
        self._runs = False

    def add(self, stream: DirectStream) -> None:
        """Looks after a call until it is over, or discarded."""
        with self._lock:
            self._streams.add(stream)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="keeper", daemon=True).start()
        self._wake.set()

    def discard(self, stream: DirectStream) -> None:
        """Looks after a call no longer."""
        with self._lock:
            self._streams.discard(stream)

    def wake(self) -> None:
        """Looks after all calls now."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                streams = list(self._streams)
                if not streams:
                    self._runs = False
                    return
            self._wake.wait(min(map(self._look_after, streams)))

    def _look_after(self, stream: DirectStream) -> float:
        """In how many seconds to come again."""
        try:
            due = stream.look_after(time.monotonic(), self._bound)
        except Exception:
            logger.exception("a call failed while it was looked after")
            due = None
        if due is not None:
            return due
        self.discard(stream)
        self._service.leave(stream)
        return 0.0
