"""Environments of one simulator, spread over servers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue, IntArray
from agent.elastic_shard import ElasticShard
from agent.options import Each
from agent.pieces import Masks, Piece
from agent.placement import Placement, Wish, check_same
from agent.shard import Shard
from farsim import addresses as address_lists
from farsim import spaces
from farsim.errors import (
    InvalidAction,
    InvalidArgument,
    InvalidTensor,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
)

#: How many sessions a fleet has where it is left open; each costs a message a step.
_AUTOMATIC_SESSIONS = 16


@dataclass(frozen=True)
class Columns:
    """One group's side of a reset or a step, for all environments.

    Its arrays are new and can be written to. With E environments and A agents, row ``e * A + a`` of
    R is agent ``a`` of environment ``e``.

    Attributes:
        observation: batched value; the last one known where there was none in this call.
        reward: float64 [R]; 0 where absent.
        terminated: bool [R].
        truncated: bool [R].
        present: bool [R]: had a row in this call's replies.
        acting: bool [R]: is to act in the next step.
        action_masks: bool [R, n] for each Discrete and MultiDiscrete leaf of the action space.
    """

    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    present: NDArray[np.bool_]
    acting: NDArray[np.bool_]
    action_masks: Masks


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
    ) -> None:
        if envs_per_session is not None and envs_per_session < 0:
            raise InvalidArgument(
                f"envs_per_session is at least 1, or 0, not {envs_per_session}", "envs_per_session"
            )
        if num_envs < 1:
            raise InvalidArgument(f"num_envs is at least 1, not {num_envs}", "num_envs")
        self.num_envs = num_envs
        self.closed = False
        #: bool [num_envs]: which have no server now, or have not begun an episode since.
        self.absent = np.zeros(num_envs, np.bool_)
        self._shards: list[Shard] = []
        self._patience = wish.connection
        #: Why a full reset has to come first; None if none has to.
        self._unfit: str | None = None
        homes = address_lists.expand(addresses)
        spare = address_lists.expand(fallback_addresses) if fallback_addresses else []
        try:
            if envs_per_session is None:
                self._open(homes, spare, wish)
            else:
                each = envs_per_session or -(-num_envs // _AUTOMATIC_SESSIONS)
                self._open_elastic(homes, spare, wish, -(-num_envs // each))
        except BaseException:
            self.close()
            raise
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
    ) -> list[Piece]:
        """Begins new episodes; see ``RemoteVectorEnv.reset``.

        Args:
            seed: as there.
            options: as there, without "reset_mask".
            mask: bool [num_envs], which environments; None for all.
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

        pieces = self._on_all(send, receive, absent, "reset")
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

    def step(self, actions: Sequence[BatchedValue]) -> list[Piece]:
        """Advances all environments; after ``check_running``.

        Args:
            actions: for each group a batched value with a row for each agent of each environment,
                made by ``fit``.
        """

        def send(shard: Shard) -> None:
            if shard.num_envs == self.num_envs:
                shard.send_step(actions)
                return
            parts = []
            for group, action in zip(self.groups, actions, strict=True):
                agents = len(group.agents)
                rows = slice(shard.first * agents, (shard.first + shard.num_envs) * agents)
                parts.append(spaces.take(group.action_space, action, rows))
            shard.send_step(parts)

        pieces = self._on_all(send, Shard.receive_step, ElasticShard.step_while_absent, "step")
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

    def fit(self, number: int, actions: Any) -> BatchedValue:
        """The actions of group ``number`` as a batched value, checked where agents are to act.

        Raises:
            InvalidAction: another structure or shape, values that the dtype can not hold, or, of
                an agent that is to act, not in the action space.
        """
        group = self.groups[number]
        space, agents = group.action_space, group.agents
        count = self.num_envs * len(agents)
        try:
            # Through a batch of one part, which converts what can be without changing a value.
            fitted = spaces.concatenate(space, [(actions, count)])
        except InvalidTensor as error:
            whose = "" if len(self.groups) == 1 else f" of group '{group.name}'"
            raise InvalidAction(f"actions{whose}: {error.message}", "actions") from None
        seen = [shard.seen[number] for shard in self._shards]
        rows, chosen = np.arange(count), fitted
        if not all(last.everyone_acts for last in seen):
            rows = np.flatnonzero(np.concatenate([last.acting for last in seen]))
            chosen = spaces.take(space, fitted, rows)
        try:
            spaces.check(space, chosen, len(rows), InvalidAction, "actions")
        except InvalidAction as error:
            first = int(spaces.outside(space, chosen, len(rows))[0])
            env, agent = divmod(int(rows[first]), len(agents))
            what = error.message.removeprefix(f"row {first}").removeprefix(":").lstrip()
            raise InvalidAction(
                f"action of '{agents[agent]}' in environment {env}: {what}", "actions"
            ) from None
        return fitted

    def columns(self, number: int, pieces: Sequence[Piece]) -> Columns:
        """Group ``number`` of all environments, after a call that brought ``pieces``."""
        group = self.groups[number]
        count = self.num_envs * len(group.agents)
        seen = [shard.seen[number] for shard in self._shards]
        parts = [piece.groups[number] for piece in pieces]
        if len(parts) == len(seen) and sum(len(part.rows) for part in parts) == count:
            # Each shard's rows in one piece, so that they are in order.
            reward = np.concatenate([part.reward for part in parts])
            terminated = np.concatenate([part.terminated for part in parts])
            truncated = np.concatenate([part.truncated for part in parts])
            present = np.ones(count, np.bool_)
        else:
            reward = np.zeros(count)
            terminated, truncated, present = (np.zeros(count, np.bool_) for _ in range(3))
            for part in parts:
                reward[part.rows] = part.reward
                terminated[part.rows] = part.terminated
                truncated[part.rows] = part.truncated
                present[part.rows] = True
        return Columns(
            spaces.concatenate(
                group.observation_space, [(last.observation, len(last.acting)) for last in seen]
            ),
            reward,
            terminated,
            truncated,
            present,
            np.concatenate([last.acting for last in seen]),
            tuple(
                np.concatenate(leaf) for leaf in zip(*(last.masks for last in seen), strict=True)
            ),
        )

    def close(self) -> None:
        """Frees the environments; again does nothing."""
        self.closed = True
        for shard in self._shards:
            shard.close()

    # -- all servers together -------------------------------------------------------------

    def _open(self, homes: Sequence[str], spare: Sequence[str], wish: Wish) -> None:
        used = min(len(homes), self.num_envs)
        with ThreadPoolExecutor(used) as pool:
            opened = []
            for number, block in enumerate(np.array_split(np.arange(self.num_envs), used)):
                in_order = [*homes[number:], *homes[:number], *spare]
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

    def _on_all(
        self,
        send: Callable[[Shard], None],
        receive: Callable[[Shard], list[Piece]],
        absent: Callable[[ElasticShard], list[Piece]],
        what: str,
    ) -> list[Piece]:
        """Sends to all shards, then receives from all; from absent ones gets what they have to say.

        Those that have to open a session first come last, so that the others need not wait, and
        all at one time.
        """
        pieces: list[Piece] = []
        for shard in self._shards:
            shard.begin()
        self._wait_for_any()
        away = {shard for shard in self._elastic() if shard.is_lost}
        try:
            lost = [shard for shard in self._shards if shard.is_lost and shard not in away]
            for shard in self._shards:
                if not shard.is_lost:
                    send(shard)
            if lost:
                with ThreadPoolExecutor(len(lost)) as pool:
                    list(pool.map(send, lost))
            for shard in self._shards:
                if isinstance(shard, ElasticShard) and shard in away:
                    pieces += absent(shard)
                else:
                    pieces += receive(shard)
        except BaseException as error:
            if any(shard.may_have_advanced for shard in self._shards):
                self._unfit = f"the last {what} failed on some environments ({error})"
            raise
        return pieces

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
