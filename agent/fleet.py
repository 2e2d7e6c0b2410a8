"""Environments of one simulator, spread over servers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue, IntArray
from agent.elastic_shard import ElasticShard
from agent.options import Each
from agent.pieces import Piece
from agent.placement import Placement, Wish, check_same
from agent.shard import Shard
from agent.split import Split
from farsim import addresses as address_lists
from farsim.errors import (
    InvalidArgument,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
)

#: How many sessions a fleet has where it is left open; each costs a message a step.
_AUTOMATIC_SESSIONS = 16


class Fleet:
    """Any number of environments, dealt to servers in nearly equal consecutive blocks.

    What a ``RemoteVectorEnv`` promises about faults, lost servers and seeds is kept here; it and
    its kind only give the results their shape. A request is sent to all servers before any is
    waited for.

    Args:
        addresses: ``host:port``, ``host:first-last``, or a list of them.
        num_envs: how many environments.
        wish: what to open.
        fallback_addresses: servers that take environments only when all others will not.
        envs_per_session: how many environments have a session together; None: as many as make one
            session for each address; 0: as few as make at most 16 sessions. Given, the fleet is
            elastic: environments without a server are absent while others go on, and are back when
            a server has taken them. An absent environment has no rows; after it was absent or lost,
            the next row that it has begins an episode. Only when all are absent do calls wait.
        splits: in how many parts, with sessions of their own, the environments can be stepped one
            while another is on its way; 1 for an elastic fleet.

    Raises:
        ServerUnavailable: no server takes the environments within ``recovery_seconds``.
        FarsimError: what a server answered.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        num_envs: int,
        wish: Wish,
        fallback_addresses: str | Iterable[str] = (),
        envs_per_session: int | None = None,
        splits: int = 1,
    ) -> None:
        if envs_per_session is not None and envs_per_session < 0:
            raise InvalidArgument(
                f"envs_per_session is at least 1, or 0, not {envs_per_session}", "envs_per_session"
            )
        if num_envs < 1:
            raise InvalidArgument(f"num_envs is at least 1, not {num_envs}", "num_envs")
        if not 1 <= splits <= num_envs:
            raise InvalidArgument(
                f"splits is from 1 to {num_envs}, the number of environments, not {splits}",
                "splits",
            )
        if splits > 1 and envs_per_session is not None:
            raise InvalidArgument("with envs_per_session there is one split", "splits")
        self.num_envs = num_envs
        self.closed = False
        #: bool [num_envs]: which have no server now, or have not begun an episode since.
        self.absent = np.zeros(num_envs, np.bool_)
        self._shards: list[Shard] = []
        self._patience = wish.connection
        #: Elastic shards that had no session when the present call began.
        self._away: set[ElasticShard] = set()
        #: Why a full reset has to come first; None if none has to.
        self._unfit: str | None = None
        homes = address_lists.expand(addresses)
        spare = address_lists.expand(fallback_addresses) if fallback_addresses else []
        try:
            if envs_per_session is None:
                self._open(homes, spare, wish, splits)
            else:
                each = envs_per_session or -(-num_envs // _AUTOMATIC_SESSIONS)
                self._open_elastic(homes, spare, wish, -(-num_envs // each))
        except BaseException:
            self.close()
            raise
        self._is_elastic = isinstance(self._shards[0], ElasticShard)
        #: All environments, as one split.
        self.whole = Split(0, num_envs, self._shards)
        #: The parts that can be stepped one while another is on its way.
        self.splits = self._split(splits)
        self.groups = self._shards[0].groups
        #: What the first server says of the simulator.
        self.description = self._shards[0].description
        self.max_episode_steps = self._shards[0].max_episode_steps

    @property
    def addresses(self) -> list[str | None]:
        """Where each environment is now; None for those that were lost and not opened again."""
        return [
            shard.session.address if shard.session is not None else None
            for shard in self._shards
            for _ in range(shard.num_envs)
        ]

    def reset(
        self,
        seed: int | Sequence[int | None] | None,
        options: Mapping[str, Any],
        mask: Any = None,
        split: Split | None = None,
    ) -> list[Piece]:
        """Begins new episodes; see ``RemoteVectorEnv.reset``.

        Args:
            seed: as there.
            options: as there, without "reset_mask".
            mask: bool [num_envs], which environments; None for all.
            split: that all of these are in, so that others may be on their way; None for any.
        """
        self.check_open()
        chosen = self._reset_mask(mask)
        seeds = self._seeds(seed)
        if self._unfit is not None and not chosen.all():
            raise ProtocolError(f"{self._unfit}: reset all environments first")
        if not chosen.all() and not all(shard.has_begun for shard in self._shards):
            raise ProtocolError("the first reset is of all environments: leave out the mask")
        if isinstance(seed, (int, np.integer)):
            self._set_entropy([int(seed)])
        elif seed is not None:
            self._set_entropy([value for value in seeds if value is not None])

        def send(shard: Shard) -> None:
            envs = np.flatnonzero(chosen[shard.environments])
            numbers = shard.environments[envs]
            given = [seeds[number] for number in numbers]
            shard.send_reset(envs, given, self._options_for(options, numbers))

        def receive(shard: Shard) -> list[Piece]:
            return shard.receive_reset() if chosen[shard.environments].any() else []

        def absent(shard: ElasticShard) -> list[Piece]:
            envs = np.flatnonzero(chosen[shard.environments])
            if len(envs):
                numbers = shard.environments[envs]
                shard.reset_while_absent(envs, self._options_for(options, numbers))
            return []

        shards = (split or self.whole).shards
        self._send(shards, send, "reset")
        pieces = self._receive(shards, receive, absent, "reset")
        if split is None:
            self._unfit = None
        self._note_absent(chosen, pieces)
        return pieces

    def check_running(self) -> None:
        """Raises unless a step is possible for all environments."""
        self.check_open()
        if self._unfit is not None:
            raise ProtocolError(f"{self._unfit}: call reset() first")
        for shard in self._shards:
            shard.check_running()

    def send_step(self, actions: Sequence[BatchedValue], split: Split) -> None:
        """Begins to advance the environments of a split; after ``check_running``.

        Args:
            actions: for each group a batched value with a row for each agent of each of these
                environments, made by ``Split.fit``.
            split: one of ``splits`` that is not on its way, or ``whole`` if none is.
        """
        self._send(
            split.shards, lambda shard: shard.send_step(split.part_for(shard, actions)), "step"
        )

    def receive_step(self, split: Split) -> list[Piece]:
        """What became of the step that was sent to ``split``."""
        pieces = self._receive(
            split.shards, Shard.receive_step, ElasticShard.step_while_absent, "step"
        )
        if self._is_elastic:
            self._note_absent(np.ones(self.num_envs, np.bool_), pieces)
        return pieces

    def render(self) -> list[NDArray[np.uint8]]:
        """One RGB picture, uint8 [height, width, 3], of each environment.

        Raises:
            SessionLost: environments were lost and have not been reset since.
        """
        self.check_open()
        pending = []
        for shard in self._shards:
            if shard.session is None:
                raise SessionLost(
                    f"environments {shard.environments.tolist()} are lost: reset them first"
                )
            pending.append((shard.session, shard.session.send_render()))
        return [frame for session, sent in pending for frame in session.receive(sent)]

    def close(self) -> None:
        """Frees the environments; again does nothing."""
        self.closed = True
        for shard in self._shards:
            shard.close()

    # -- all servers together -------------------------------------------------------------

    def _open(self, homes: Sequence[str], spare: Sequence[str], wish: Wish, splits: int) -> None:
        blocks = []
        for part in np.array_split(np.arange(self.num_envs), splits):
            blocks += list(enumerate(np.array_split(part, min(len(homes), len(part)))))
        with ThreadPoolExecutor(len(blocks)) as pool:
            opened = []
            for number, (home, block) in enumerate(blocks):
                in_order = [*homes[home:], *homes[:home], *spare]
                placement = Placement(in_order, wish, len(block))
                opened.append(pool.submit(Shard, placement, int(block[0]), number))
        self._shards = [shard.result() for shard in opened if shard.exception() is None]
        for shard in opened:
            shard.result()  # Raises what it raised; those that opened are closed then.
        groups = self._shards[0].groups
        for other in self._shards[1:]:
            if other.session is not None:
                check_same(groups, other.session)

    def _open_elastic(
        self, homes: Sequence[str], spare: Sequence[str], wish: Wish, sessions: int
    ) -> None:
        """Opens one session, and as many of the others as find a place soon."""
        wish = replace(wish, fleet=wish.fleet or secrets.token_hex(8))
        for number, block in enumerate(np.array_split(np.arange(self.num_envs), sessions)):
            at = number % len(homes)
            placement = Placement([*homes[at:], *homes[:at], *spare], wish, len(block))
            like = self._shards[0] if self._shards else None
            self._shards.append(ElasticShard(placement, int(block[0]), number, like))
        shards = self._elastic()
        for shard in shards:
            shard.look()
        until = time.monotonic() + wish.connection.failover_seconds
        for shard in shards:
            shard.look(max(0.0, until - time.monotonic()))
        self.absent[:] = True

    def _split(self, count: int) -> tuple[Split, ...]:
        splits = []
        for part in np.array_split(np.arange(self.num_envs), count):
            inside = [shard for shard in self._shards if part[0] <= shard.first <= part[-1]]
            splits.append(Split(int(part[0]), len(part), inside))
        return tuple(splits)

    def _elastic(self) -> list[ElasticShard]:
        return [shard for shard in self._shards if isinstance(shard, ElasticShard)]

    def _wait_for_any(self) -> None:
        """Makes sure that a shard is there, of those that may be absent.

        Raises:
            ServerUnavailable: none is, for ``recovery_seconds``.
        """
        shards = self._elastic()
        here = [shard for shard in shards if shard.look()]
        until = time.monotonic() + self._patience.recovery_seconds
        while shards and not here:
            if time.monotonic() > until:
                raise ServerUnavailable(
                    f"no server has taken any of {self.num_envs} environments within "
                    f"{self._patience.recovery_seconds:g} s; at last: {shards[0].reason}"
                )
            here = [shard for shard in shards if shard.look(0.05)]

    def _note_absent(self, chosen: NDArray[np.bool_], pieces: Sequence[Piece]) -> None:
        """Whoever was asked for and has no row is absent."""
        covered = np.zeros(self.num_envs, np.bool_)
        for piece in pieces:
            covered[piece.environments] = True
        self.absent[chosen] = ~covered[chosen]

    def _send(self, shards: Sequence[Shard], send: Callable[[Shard], None], what: str) -> None:
        """Sends to all of ``shards``, but not to elastic ones without a session.

        Those that have to open a session first come last, so that the others need not wait, and
        all at one time.
        """
        for shard in shards:
            shard.begin()
        if self._is_elastic:
            self._wait_for_any()
            self._away = {shard for shard in self._elastic() if shard.is_lost}
        try:
            lost = []
            for shard in shards:
                if shard.session is not None:
                    send(shard)
                elif shard not in self._away:
                    lost.append(shard)
            if lost:
                with ThreadPoolExecutor(len(lost)) as pool:
                    list(pool.map(send, lost))
        except BaseException as error:
            self._note_failure(shards, what, error)
            raise

    def _receive(
        self,
        shards: Sequence[Shard],
        receive: Callable[[Shard], list[Piece]],
        absent: Callable[[ElasticShard], list[Piece]],
        what: str,
    ) -> list[Piece]:
        """Receives what was asked for, from absent shards what they have to say."""
        pieces: list[Piece] = []
        try:
            for shard in shards:
                if self._away and isinstance(shard, ElasticShard) and shard in self._away:
                    pieces += absent(shard)
                else:
                    pieces += receive(shard)
        except BaseException as error:
            self._note_failure(shards, what, error)
            raise
        return pieces

    def _note_failure(self, shards: Sequence[Shard], what: str, error: BaseException) -> None:
        """Notes where an error leaves some environments elsewhere than others."""
        if len(shards) < len(self._shards) or any(shard.may_have_advanced for shard in shards):
            self._unfit = f"the last {what} failed on some environments ({error})"

    # -- arguments ------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises Gymnasium's error for an environment that has been closed, if it has been."""
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment has been closed")

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != (self.num_envs,) or not array.any():
            raise InvalidArgument(
                f"'reset_mask' is a bool array [{self.num_envs}] with at least one True, not "
                f"{array.dtype} {list(array.shape)}{' of False' if not array.any() else ''}",
                "reset_mask",
            )
        return array

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + number for number in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InvalidArgument(f"{len(seed)} seeds for {self.num_envs} environments", "seed")
        return [None if value is None else int(value) for value in seed]

    def _set_entropy(self, words: list[int]) -> None:
        # SeedSequence takes no negative numbers; seeds are 64-bit ones.
        for shard in self._shards:
            shard.entropy = [word % 2**64 for word in words]

    def _options_for(self, options: Mapping[str, Any], numbers: IntArray) -> dict[str, Any]:
        chosen = {}
        for name, value in options.items():
            if isinstance(value, Each):
                if len(value.values) != self.num_envs:
                    raise InvalidArgument(
                        f"option '{name}' has {len(value.values)} values for {self.num_envs} "
                        "environments",
                        name,
                    )
                value = Each([value.values[number] for number in numbers])
            chosen[name] = value
        return chosen
