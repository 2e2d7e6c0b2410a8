"""Ctrl-C and SIGTERM: at once where nothing is lost, after the iteration where something is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """The process was asked to stop; exits with 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interrupt:
    """Turns signals into ``Interrupted``, or into a note of them while ``deferred``.

    A context manager, for the main thread.

    Args:
        noted: is called when a signal has been deferred.

    Attributes:
        number: of the signal that has been deferred; 0 if there is none.
    """

    def __init__(self, noted: Callable[[], None]) -> None:
        self.number = 0
        self._noted = noted
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the first signal is only noted; a second one is as outside."""
        # Again, since Ray puts a handler of its own in place when it starts.
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raises ``Interrupted`` if a signal has been noted."""
        if self.number:
            raise Interrupted(self.number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferred and not self.number:
            self.number = number
            self._noted()
        else:
            raise Interrupted(number)
