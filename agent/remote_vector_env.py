"""Remote simulators as one Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agent.batch import BatchedValue, IntArray
from agent.pieces import Piece, merge_infos, merge_rows
from agent.placement import Placement, Wish, check_same
from agent.session import Each
from agent.shard import Shard
from farsim import addresses as address_lists
from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.errors import (
    InvalidAction,
    InvalidArgument,
    InvalidTensor,
    ProtocolError,
    SessionLost,
    Unsupported,
)


class RemoteVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """Environments of one single-agent simulator, spread over servers.

        >>> env = RemoteVectorEnv("sim-a:50051-50052", "gymnasium/CartPole-v1", num_envs=64)
        >>> observation, infos = env.reset(seed=1)
        >>> observation, reward, terminated, truncated, infos = env.step(env.action_space.sample())

    The environments are dealt to the addresses in nearly equal consecutive blocks. A step is sent
    to all servers before any is waited for.

    Observations and infos are as Gymnasium's vector environments give them; ``infos`` besides has

    - "action_mask": int8 [num_envs, n], 1 for what is allowed now, if the simulator says so; for
      several Discrete or MultiDiscrete leaves a dict of such arrays, named "0", "1", ...;
    - "episode_options": of environments whose episode began in this call, the per-episode
      parameters that it uses, drawn ones included;
    - "fault": of environments that failed in this call, what went wrong. Their rows have the
      observation from before, reward 0 and ``truncated``, and are no transitions.

    An environment that raises an exception is a fault of that environment. When a server dies, a
    connection can not be resumed or a deadline passes, all environments there have the fault; the
    next call that needs them opens them anew, on their own server or another one, within
    ``ConnectionOptions.recovery_seconds``, and with seeds that have not been used before.

    A call that raises may have gone through on some of the servers; ``reset`` then comes first.

    Args:
        addresses: ``host:port``, ``host:first-last``, or a list of them. If there are more than
            environments, the last ones only serve as fallback.
        simulator: a name on offer there; may be empty if there is just one.
        num_envs: how many environments.
        options: values of the simulator's parameters, for all environments.
        autoreset_mode: what happens when an episode is over.
        render_mode: "rgb_array" if ``render`` will be used.
        connection: how to connect, and how patient to be.
        fallback_addresses: servers that take environments only when all others will not.
        action_mask_in_observation: makes the observation ``{"observations": ..., "action_mask":
            float32 [n]}``, as RLlib's action-masking modules want it. The mask is all ones where
            an episode is over.

    Raises:
        ServerUnavailable: no server takes the environments within ``recovery_seconds``.
        Unsupported: the simulator has several agents, or no masks to put into the observation.
        FarsimError: what a server answered.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        simulator: str = "",
        num_envs: int = 1,
        options: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        connection: ConnectionOptions | Mapping[str, Any] | None = None,
        fallback_addresses: str | Iterable[str] = (),
        action_mask_in_observation: bool = False,
    ) -> None:
        if num_envs < 1:
            raise InvalidArgument(f"num_envs is at least 1, not {num_envs}", "num_envs")
        homes = address_lists.expand(addresses)
        spare = address_lists.expand(fallback_addresses) if fallback_addresses else []
        mode = AutoresetMode(autoreset_mode)
        how = ConnectionOptions.of(connection)
        wish = Wish(simulator, dict(options or {}), mode, render_mode, how)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {
            "autoreset_mode": mode,
            "render_modes": [render_mode] if render_mode else [],
            "render_fps": 30,
        }
        self._shards: list[Shard] = []
        self._mask_in_observation = action_mask_in_observation
        #: Why a full reset has to come first; None if none has to.
        self._unfit: str | None = None
        try:
            self._open(homes, spare, wish)
            self._declare_spaces()
        except BaseException:
            self.close()
            raise

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
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes.

        Args:
            seed: of environment 0, the i-th one has ``seed + i``; or one for each environment; None
                goes on with the random streams that there are.
            options: per-episode parameters of the simulator by name, each one value for all
                environments or ``Each`` with ``num_envs`` values; they hold until another reset
                gives others. Besides "reset_mask": bool [num_envs], which environments; the others
                stay as they are.

        Returns:
            Observations of all environments, and infos of those that were reset.

        Raises:
            ServerUnavailable: environments were lost, and no server takes them.
            SimulatorFault: an environment can not be reset.
            FarsimError: what a server answered.
        """
        self._check_open()
        given = dict(options or {})
        mask = self._reset_mask(given.pop("reset_mask", None))
        seeds = self._seeds(seed)
        if self._unfit is not None and not mask.all():
            raise ProtocolError(f"{self._unfit}: reset all environments first")
        if isinstance(seed, (int, np.integer)):
            self._set_entropy(int(seed))
        elif seed is not None:
            self._set_entropy([value for value in seeds if value is not None])

        def send(shard: Shard) -> None:
            envs = np.flatnonzero(mask[shard.rows])
            chosen = [seeds[row] for row in shard.rows[envs]]
            shard.send_reset(envs, chosen, self._options_for(given, shard.rows[envs]))

        def receive(shard: Shard) -> list[Piece]:
            others = np.flatnonzero(~mask[shard.rows])
            pieces = shard.receive_reset() if mask[shard.rows].any() else []
            return [*pieces, shard.unchanged(others)] if len(others) else pieces

        pieces = self._on_all(send, receive, "reset")
        self._unfit = None
        merged = merge_rows(self._group, pieces)
        infos = self._infos(merged, pieces)
        return self._observation(merged, infos), infos

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Advances all environments by one action.

        Args:
            actions: a member of ``action_space``, or a list of members of
                ``single_action_space``. Numbers of another dtype are converted if none changes its
                value.

        Returns:
            Observations, rewards (float64), terminations, truncations and infos.

        Raises:
            InvalidAction: an action that is not in the space; nothing has then been sent.
            EpisodeOver: an episode is over, and the mode is ``DISABLED``.
            ServerUnavailable: environments were lost, and no server takes them.
            FarsimError: what a server answered.
        """
        self._check_open()
        if self._unfit is not None:
            raise ProtocolError(f"{self._unfit}: call reset() first")
        for shard in self._shards:
            shard.check_running()
        fitted = self._fit(actions)
        space = self.single_action_space

        def send(shard: Shard) -> None:
            first, last = int(shard.rows[0]), int(shard.rows[-1]) + 1
            part = fitted
            if shard.num_envs < self.num_envs:
                part = spaces.take(space, fitted, slice(first, last))
            shard.send_step(part)

        pieces = self._on_all(send, Shard.receive_step, "step")
        merged = merge_rows(self._group, pieces)
        infos = self._infos(merged, pieces)
        observation = self._observation(merged, infos)
        return observation, merged.reward, merged.terminated, merged.truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """One RGB picture, uint8 [height, width, 3], of each environment.

        Raises:
            SessionLost: environments were lost and have not been reset since.
        """
        self._check_open()
        if self.render_mode is None:
            return None
        pending = []
        for shard in self._shards:
            if shard.session is None:
                raise SessionLost(f"environments {shard.rows.tolist()} are lost: reset them first")
            pending.append((shard.session, shard.session.send_render()))
        return tuple(frame for session, sent in pending for frame in session.receive(sent))

    def close_extras(self, **kwargs: Any) -> None:
        for shard in getattr(self, "_shards", ()):
            shard.close()

    # -- construction ---------------------------------------------------------------------

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
        if len(groups) != 1 or len(groups[0].agents) != 1:
            agents = [agent for group in groups for agent in group.agents]
            raise Unsupported(f"a vector environment has one agent; this simulator has {agents}")
        self._group = groups[0]

    def _declare_spaces(self) -> None:
        space = self._group.observation_space
        if self._mask_in_observation:
            widths = self._mask_widths()
            if len(widths) != 1:
                raise Unsupported(
                    "action_mask_in_observation needs a simulator with action masks for one "
                    f"Discrete or MultiDiscrete action; this one has {len(widths)}"
                )
            mask_space = gym_spaces.Box(0.0, 1.0, (widths[0],), np.float32)
            space = gym_spaces.Dict({"observations": space, "action_mask": mask_space})
        self.single_observation_space = space
        self.single_action_space = self._group.action_space
        self.observation_space = batch_space(space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _mask_widths(self) -> list[int]:
        if not self._group.has_action_mask:
            return []
        return list(spaces.mask_widths(self._group.action_space))

    # -- all servers together -------------------------------------------------------------

    def _on_all(self, send: Any, receive: Any, what: str) -> list[Piece]:
        """Sends to all shards, then receives from all.

        Those that have to open a session first come last, so that the others need not wait, and
        all at one time.
        """
        pieces: list[Piece] = []
        for shard in self._shards:
            shard.begin()
        try:
            lost = [shard for shard in self._shards if shard.is_lost]
            for shard in self._shards:
                if not shard.is_lost:
                    send(shard)
            if lost:
                with ThreadPoolExecutor(len(lost)) as pool:
                    list(pool.map(send, lost))
            for shard in self._shards:
                pieces += receive(shard)
        except BaseException as error:
            if any(shard.may_have_advanced for shard in self._shards):
                self._unfit = f"the last {what} failed on some environments ({error})"
            raise
        return pieces

    # -- arguments ------------------------------------------------------------------------

    def _check_open(self) -> None:
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
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InvalidArgument(f"{len(seed)} seeds for {self.num_envs} environments", "seed")
        return [None if value is None else int(value) for value in seed]

    def _set_entropy(self, entropy: int | list[int]) -> None:
        # SeedSequence takes no negative numbers; seeds are 64-bit ones.
        words = [entropy] if isinstance(entropy, int) else entropy
        for shard in self._shards:
            shard.entropy = [word % 2**64 for word in words]

    def _options_for(self, options: Mapping[str, Any], rows: IntArray) -> dict[str, Any]:
        chosen = {}
        for name, value in options.items():
            if isinstance(value, Each):
                if len(value.values) != self.num_envs:
                    raise InvalidArgument(
                        f"option '{name}' has {len(value.values)} values for {self.num_envs} "
                        "environments",
                        name,
                    )
                value = Each([value.values[row] for row in rows])
            chosen[name] = value
        return chosen

    def _fit(self, actions: Any) -> BatchedValue:
        """The actions as a batched value, checked."""
        space = self.single_action_space
        composite = isinstance(space, (gym_spaces.Dict, gym_spaces.Tuple))
        try:
            if composite and isinstance(actions, list):
                actions = spaces.batch(space, actions)
            # Through a batch of one part, which converts what can be without changing a value.
            fitted = spaces.concatenate(space, [(actions, self.num_envs)])
        except InvalidTensor as error:
            raise InvalidAction(f"actions: {error.message}", "actions") from None
        spaces.check(space, fitted, self.num_envs, InvalidAction, "actions")
        return fitted

    # -- results --------------------------------------------------------------------------

    def _infos(self, merged: Piece, pieces: Sequence[Piece]) -> dict[str, Any]:
        infos = merge_infos(
            self.num_envs,
            pieces,
            self._group.observation_space,
            self._shards[0].description.parameters,
        )
        if merged.action_masks:
            masks = [mask.view(np.int8) for mask in merged.action_masks]
            everyone = np.ones(self.num_envs, np.bool_)
            if len(masks) == 1:
                infos["action_mask"], infos["_action_mask"] = masks[0], everyone
            else:
                named: dict[str, Any] = {}
                for number, mask in enumerate(masks):
                    named[str(number)], named[f"_{number}"] = mask, everyone
                infos["action_mask"], infos["_action_mask"] = named, everyone
        return infos

    def _observation(self, merged: Piece, infos: dict[str, Any]) -> Any:
        if not self._mask_in_observation:
            return merged.observation
        (mask,) = merged.action_masks
        shown = mask.astype(np.float32)
        shown[~mask.any(axis=1)] = 1.0
        if "final_obs" in infos:
            ones = np.ones(mask.shape[1], np.float32)
            for row in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][row] = {
                    "observations": infos["final_obs"][row],
                    "action_mask": ones.copy(),
                }
        return {"observations": merged.observation, "action_mask": shown}
