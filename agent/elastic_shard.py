"""A shard that is absent while there is no server for it, so that the others can go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.batch import IntArray
from agent.pieces import Piece
from agent.placement import Placement
from agent.search import Search
from agent.shard import Sent, Shard, State
from farsim.errors import FarsimError

logger = logging.getLogger(__name__)


class ElasticShard(Shard):
    """A ``Shard`` whose sessions are opened in the background.

    When its session is lost, its episodes end as truncated, as those of any shard. From then on it
    has no rows, until a server has taken its environments and their new episodes begin: that is
    their next row. Before every call, ``look`` says which it is.

    Args:
        placement: opens the sessions.
        first: the number of the shard's first environment.
        number: of the shard, to tell its seeds from other shards'.
        like: another shard of the same simulator, for one that begins absent; None: this one is the
            first, and is there from the beginning.

    Raises:
        ServerUnavailable: there is no ``like``, and no server takes the environments.
    """

    def __init__(
        self, placement: Placement, first: int, number: int, like: Shard | None = None
    ) -> None:
        super().__init__(placement, first, number, like)
        self._search: Search | None = None
        if like is not None:
            placement.expect(like.groups)
            for seen in self.seen:
                seen.blank()

    def look(self, seconds: float = 0.0) -> bool:
        """Whether there is a session; goes on looking for one if there is none.

        Args:
            seconds: how long to wait for it.
        """
        if self.session is not None:
            return True
        if self._search is None:
            self._search = Search(self._placement)
        if self._search.wait(seconds):
            search, self._search = self._search, None
            try:
                self.session = search.result()
            except FarsimError as error:
                self._reason = str(error)
                logger.info("still no server for %d environments: %s", self.num_envs, error)
                return False
            self._sessions += 1
        return self.session is not None

    @property
    def reason(self) -> str:
        """Why there is no session."""
        return self._reason

    def reset_while_absent(self, envs: IntArray, options: Mapping[str, Any]) -> None:
        """Takes note of a reset: the episodes begin as soon as there is a server."""
        self._remember(Sent(None, envs, None, options))
        self._states[envs] = State.UNBORN

    def step_while_absent(self) -> list[Piece]:
        """What has to be said of episodes that are gone, and has not been."""
        gone = np.flatnonzero(self._states == State.GONE)
        pieces = self._cut(gone) if len(gone) else []
        self._note(pieces)
        return pieces

    def receive_reset(self) -> list[Piece]:
        sent, self._sent = self._sent, []
        pieces = [piece for request in sent for piece in self._begun(request)]
        for request in sent:
            self._remember(request)
            if self.session is None:
                self._states[request.envs] = State.UNBORN
        if self.session is None:
            return []
        self._note(pieces)
        return pieces

    def close(self) -> None:
        if self._search is not None:
            self._search.cancel()
        super().close()

    def _cut(self, envs: IntArray) -> list[Piece]:
        return [self._lost(envs)]
