"""Remote simulators as one Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.fleet import Fleet
from agent.pieces import Piece
from agent.placement import Wish
from agent.split import Columns, Split
from agent.vector_infos import merge_infos
from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.errors import InvalidAction, InvalidTensor, Unsupported

_NO_ROWS: NDArray[np.int64] = np.zeros(0, np.int64)
_NO_ROWS.setflags(write=False)


@dataclass  # Not frozen: each step makes one, which would take three times as long.
class VectorStep:
    """A reset or a step of the environments of a split.

    Attributes:
        observation: batched, as Gymnasium has it.
        reward: float64 [environments].
        terminated: bool [environments].
        truncated: bool [environments].
        faults: of environments that failed in this call, counted from the split's first, what went
            wrong; see ``RemoteVectorEnv``.
        absent: bool [environments]: has no server at this moment, and a row that says nothing.
        final_rows: int64, with ``SAME_STEP`` the environments, counted from the split's first,
            whose episode ended and whose next one has begun.
        final_observation: what they showed last, batched, perhaps read-only; None if there are
            none.
        make_infos: makes the infos, with or without "final_obs".
    """

    observation: Any
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    faults: dict[int, str]
    absent: NDArray[np.bool_]
    final_rows: NDArray[np.int64]
    final_observation: Any
    make_infos: Callable[[bool], dict[str, Any]] = field(repr=False)

    @cached_property
    def infos(self) -> dict[str, Any]:
        """In Gymnasium's vector format."""
        return self.make_infos(True)


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
        envs_per_session: how many environments have a session together, for a fleet of servers that
            grows and shrinks, 0 for as few as make at most 16 sessions; None: one session for each
            address. Given, environments without a
            server have the info "absent" and a row that says nothing, while the others go on; their
            next row without it, as the row after a fault, is the first of an episode.
        splits: in how many parts, with sessions of their own, ``step_async`` can step the
            environments one while another is on its way.

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
        envs_per_session: int | None = None,
        splits: int = 1,
    ) -> None:
        mode = AutoresetMode(autoreset_mode)
        how = ConnectionOptions.of(connection)
        wish = Wish(simulator, dict(options or {}), mode, render_mode, how)
        self._fleet = Fleet(addresses, num_envs, wish, fallback_addresses, envs_per_session, splits)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {
            "autoreset_mode": mode,
            "render_modes": [render_mode] if render_mode else [],
            "render_fps": 30,
        }
        self._mask_in_observation = action_mask_in_observation
        try:
            self._declare_spaces()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[str | None]:
        """Where each environment is now; None for those that were lost and not opened again."""
        return self._fleet.addresses

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
        given = dict(options or {})
        step = self._see(self._fleet.reset(seed, given, given.pop("reset_mask", None)), None)
        return step.observation, step.infos

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
        self.step_async(actions)
        return self.step_wait()

    @property
    def splits(self) -> list[slice]:
        """The environments of each split; see ``step_async``."""
        return [split.environments for split in self._fleet.splits]

    def step_async(self, actions: Any, split: int | None = None) -> None:
        """Sends the actions of a step, and leaves it to ``step_wait`` to wait for the rest.

        With several splits, one can be on its way while the actions of another are thought about::

            for split in (0, 1):
                env.step_async(policy(observations[split]), split)
            while True:
                for split in (0, 1):
                    observations[split], *rest = env.step_wait(split)
                    env.step_async(policy(observations[split]), split)

        Args:
            actions: as at ``step``, of the environments ``splits[split]``.
            split: which one, and not on its way; None for all environments.

        Raises:
            What ``step`` raises.
        """
        fleet = self._fleet
        fleet.check_running()
        chosen = fleet.whole if split is None else fleet.splits[split]
        space = self.single_action_space
        if isinstance(actions, list) and isinstance(space, (gym_spaces.Dict, gym_spaces.Tuple)):
            try:
                actions = spaces.batch(space, actions)
            except InvalidTensor as error:
                raise InvalidAction(f"actions: {error.message}", "actions") from None
        fleet.send_step([chosen.fit(0, actions)], chosen)

    def step_wait(
        self, split: int | None = None
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """What became of the step that was sent last for ``split``; as ``step`` returns it."""
        step = self.receive(split)
        return step.observation, step.reward, step.terminated, step.truncated, step.infos

    def receive(self, split: int | None = None) -> VectorStep:
        """As ``step_wait``, with infos that are put together only when they are asked for."""
        fleet = self._fleet
        chosen = fleet.whole if split is None else fleet.splits[split]
        return self._see(fleet.receive_step(chosen), split)

    def reset_splits(self, seed: Sequence[int | None] | None) -> list[VectorStep]:
        """As ``reset``, split by split."""
        pieces = self._fleet.reset(seed, {})
        return [
            self._see([piece for piece in pieces if split.holds(piece)], number)
            for number, split in enumerate(self._fleet.splits)
        ]

    def reset_some(self, mask: NDArray[np.bool_], split: int) -> VectorStep:
        """Begins new episodes of environments of one split, while others may be on their way.

        Args:
            mask: bool, which of the split's environments.
            split: which one, and not on its way.
        """
        chosen = self._fleet.splits[split]
        everyone = np.zeros(self.num_envs, np.bool_)
        everyone[chosen.environments] = mask
        return self._see(self._fleet.reset(None, {}, everyone, chosen), split)

    def render(self) -> tuple[Any, ...] | None:
        """One RGB picture, uint8 [height, width, 3], of each environment.

        Raises:
            SessionLost: environments were lost and have not been reset since.
        """
        self._fleet.check_open()
        return None if self.render_mode is None else tuple(self._fleet.render())

    def close_extras(self, **kwargs: Any) -> None:
        if hasattr(self, "_fleet"):
            self._fleet.close()

    def _declare_spaces(self) -> None:
        groups = self._fleet.groups
        if len(groups) != 1 or len(groups[0].agents) != 1:
            agents = [agent for group in groups for agent in group.agents]
            raise Unsupported(f"a vector environment has one agent; this simulator has {agents}")
        self._group = groups[0]
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

    def _see(self, pieces: Sequence[Piece], split: int | None) -> VectorStep:
        chosen = self._fleet.whole if split is None else self._fleet.splits[split]
        columns = chosen.columns(0, pieces)
        faults = {
            row - chosen.first: text for piece in pieces for row, text in piece.faults.items()
        }
        final_rows, final_observation = self._finals(pieces, chosen.first)
        step = VectorStep(
            columns.observation,
            columns.reward,
            columns.terminated,
            columns.truncated,
            faults,
            self._fleet.absent[chosen.environments],
            final_rows,
            final_observation,
            lambda final: self._infos(columns, pieces, chosen, final),
        )
        return self._with_mask(step, columns) if self._mask_in_observation else step

    def _finals(
        self, pieces: Sequence[Piece], first: int
    ) -> tuple[NDArray[np.int64], BatchedValue | None]:
        parts = [piece.groups[0] for piece in pieces if len(piece.groups[0].final_rows)]
        if not parts:
            return _NO_ROWS, None
        if len(parts) == 1:
            return parts[0].final_rows - first, parts[0].final_observation
        observation = spaces.concatenate(
            self._group.observation_space,
            [(part.final_observation, len(part.final_rows)) for part in parts],
        )
        return np.concatenate([part.final_rows for part in parts]) - first, observation

    def _infos(
        self, columns: Columns, pieces: Sequence[Piece], split: Split, final: bool
    ) -> dict[str, Any]:
        infos = merge_infos(
            split.num_envs,
            pieces,
            self._group,
            self._fleet.description.parameters,
            split.first,
            final,
        )
        absent = self._fleet.absent[split.environments]
        if np.count_nonzero(absent):
            infos["absent"] = infos["_absent"] = absent.copy()
        if columns.action_masks:
            masks = [mask.view(np.int8) for mask in columns.action_masks]
            everyone = np.ones(split.num_envs, np.bool_)
            if len(masks) == 1:
                infos["action_mask"], infos["_action_mask"] = masks[0], everyone
            else:
                named: dict[str, Any] = {}
                for number, mask in enumerate(masks):
                    named[str(number)], named[f"_{number}"] = mask, everyone
                infos["action_mask"], infos["_action_mask"] = named, everyone
        return infos

    def _with_mask(self, step: VectorStep, columns: Columns) -> VectorStep:
        (mask,) = columns.action_masks
        shown = mask.astype(np.float32)
        shown[~mask.any(axis=1)] = 1.0

        def infos(final: bool) -> dict[str, Any]:
            found = step.make_infos(final)
            for row in np.flatnonzero(found["_final_obs"]) if "final_obs" in found else ():
                found["final_obs"][row] = {
                    "observations": found["final_obs"][row],
                    "action_mask": np.ones(mask.shape[1], np.float32),
                }
            return found

        observation = {"observations": step.observation, "action_mask": shown}
        final_observation = None
        if len(step.final_rows):
            ones = np.ones((len(step.final_rows), mask.shape[1]), np.float32)
            final_observation = {"observations": step.final_observation, "action_mask": ones}
        return replace(
            step,
            observation=observation,
            final_observation=final_observation,
            make_infos=infos,
        )
