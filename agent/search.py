"""Looking for a server while everything else goes on."""

from __future__ import annotations

import logging
import threading

from agent.placement import Placement
from agent.session import Session
from farsim.errors import FarsimError

logger = logging.getLogger(__name__)


class Search:
    """Opens a session in a thread of its own; see ``Placement.open``.

    Args:
        placement: where to look.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._is_cancelled = False
        self._session: Session | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="search", daemon=True).start()

    @property
    def is_done(self) -> bool:
        """Whether ``result`` has something to say."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits for the end; whether it has come."""
        return self._done.wait(seconds)

    def result(self) -> Session:
        """The session, once the search is done.

        Raises:
            FarsimError: what ``Placement.open`` raised.
        """
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def cancel(self) -> None:
        """Nobody wants the session any more; if there is one, it is closed."""
        self._placement.give_up()
        with self._lock:
            self._is_cancelled = True
            session = self._session
        if session is not None:
            session.close()

    def _run(self) -> None:
        try:
            session = self._placement.open()
        except FarsimError as error:
            self._error = error
        except BaseException as error:
            logger.exception("the search for a server failed")
            self._error = error
        else:
            with self._lock:
                self._session = session
                unwanted = self._is_cancelled
            if unwanted:
                session.close()
        self._done.set()
