"""Taking newer checkpoints into service as they appear."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.policy import loading
from agent.policy.loading import Source
from agent.policy.recipe import Recipe
from farsim.errors import FarsimError

log = logging.getLogger(__name__)


class Watcher:
    """Looks at a path from time to time, and hands over what is new there.

    A checkpoint that cannot be used is told of in the log, and left alone until there is another.

    Args:
        path: as at ``loading.find``.
        first: the checkpoint that is served already.
        add: called with each newer one, in this thread; may raise ``FarsimError``.
        trust: whether checkpoints may be unpickled.
        interval: seconds between looks.

    Attributes:
        failures: how many checkpoints could not be used.
    """

    def __init__(
        self,
        path: Path,
        first: Source,
        add: Callable[[Recipe], int],
        trust: bool = False,
        interval: float = 1.0,
    ) -> None:
        self._path = path
        self._seen = (first.folder, first.stamp)
        self._add = add
        self._trust = trust
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self.failures = 0

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, after the checkpoint that is being loaded."""
        self._stop.set()
        self._thread.join()

    def look(self) -> int:
        """Takes what is new; its version, or 0 if there is nothing, or nothing of use."""
        try:
            source = loading.find(self._path)
        except (FarsimError, OSError):
            # A run's folder is being replaced, or its oldest checkpoints removed.
            return 0
        if (source.folder, source.stamp) == self._seen:
            return 0
        self._seen = (source.folder, source.stamp)
        try:
            number = self._add(loading.load(source, self._trust))
        except FarsimError as error:
            self.failures += 1
            log.warning("%s is not used: %s", source.folder, error)
            return 0
        log.info("version %d is %s", number, source.folder)
        return number

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()
