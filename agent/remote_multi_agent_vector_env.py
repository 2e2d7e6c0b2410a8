"""Remote simulators with several agents, many environments at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.fleet import Fleet
from agent.group_step import GroupStep, MultiAgentStep
from agent.placement import Wish
from farsim.channel import ConnectionOptions
from farsim.errors import InvalidAction

__all__ = ["GroupStep", "MultiAgentStep", "RemoteMultiAgentVectorEnv"]


class RemoteMultiAgentVectorEnv:
    """Environments of one simulator with any number of agents, spread over servers.

        >>> env = RemoteMultiAgentVectorEnv("sim-a:50051", "particle/simple_tag", num_envs=64)
        >>> [(group.name, len(group.agents)) for group in env.groups]
        [('adversaries', 3), ('agents', 1)]
        >>> step = env.reset(seed=1)
        >>> step = env.step([np.zeros(192, np.int64), np.zeros(64, np.int64)])
        >>> step.groups[0].reward.shape
        (192,)

    Agents that share an observation and an action space are a group, and have arrays in common:
    with E environments and A agents in the group, row ``e * A + a`` is agent ``a`` of environment
    ``e``. Agents may take turns, end before others of their environment, and join late; see
    ``GroupStep`` for what is said of each. An environment's episode is over when no agent's goes
    on.

    Faults, servers that are lost, and seeds are treated as by ``RemoteVectorEnv``; an environment's
    fault is a fault of those of its agents whose episode went on. One request for each server
    carries a step.

    Not to be pickled or copied; a context manager.

    Args:
        addresses: ``host:port``, ``host:first-last``, or a list of them. If there are more than
            environments, the last ones only serve as fallback.
        simulator: a name on offer there; may be empty if there is just one.
        num_envs: how many environments.
        options: values of the simulator's parameters, for all environments.
        autoreset_mode: what happens when an environment's episode is over.
        render_mode: "rgb_array" if ``render`` will be used.
        connection: how to connect, and how patient to be.
        fallback_addresses: servers that take environments only when all others will not.
        envs_per_session: how many environments have a session together, for a fleet of servers that
            grows and shrinks, 0 for as few as make at most 16 sessions; None: one session for each
            address. Given, environments without a
            server are ``MultiAgentStep.absent`` while the others go on; an episode of theirs begins
            with their next row, and after a fault, too, not before.

    Attributes:
        groups: the agents and their spaces.
        agents: the names of all agents, group after group.
        description: what the first server says of the simulator.
        num_envs: how many environments.
        autoreset_mode: what happens when an environment's episode is over.
        render_mode: "rgb_array", or None.

    Raises:
        ServerUnavailable: no server takes the environments within ``recovery_seconds``.
        FarsimError: what a server answered.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        simulator: str = "",
        num_envs: int = 1,
        options: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        connection: ConnectionOptions | Mapping[str, Any] | None = None,
        fallback_addresses: str | Iterable[str] = (),
        envs_per_session: int | None = None,
    ) -> None:
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        how = ConnectionOptions.of(connection)
        wish = Wish(simulator, dict(options or {}), self.autoreset_mode, render_mode, how)
        self._fleet = Fleet(addresses, num_envs, wish, fallback_addresses, envs_per_session)
        self.num_envs = num_envs
        self.groups = self._fleet.groups
        self.agents = [agent for group in self.groups for agent in group.agents]
        self.description = self._fleet.description

    @property
    def addresses(self) -> list[str | None]:
        """Where each environment is now; None for those that were lost and not opened again."""
        return self._fleet.addresses

    @property
    def max_episode_steps(self) -> int:
        """After how many steps an episode is truncated at the latest; 0 for no known bound."""
        return self._fleet.max_episode_steps

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
        envs: NDArray[np.bool_] | None = None,
    ) -> MultiAgentStep:
        """Begins new episodes.

        Args:
            seed: of environment 0, the i-th one has ``seed + i``; or one for each environment; None
                goes on with the random streams that there are.
            options: per-episode parameters of the simulator by name, each one value for all
                environments or ``Each`` with ``num_envs`` values; they hold until another reset
                gives others.
            envs: bool [num_envs], which environments; None for all. The others stay as they are,
                and have no row ``present``.

        Raises:
            ServerUnavailable: environments were lost, and no server takes them.
            SimulatorFault: an environment can not be reset.
            FarsimError: what a server answered.
        """
        pieces = self._fleet.reset(seed, dict(options or {}), envs)
        return MultiAgentStep.merge(self._fleet, pieces)

    def step(self, actions: Sequence[BatchedValue]) -> MultiAgentStep:
        """Advances all environments by one action of each agent that is to act.

        Args:
            actions: for each group a batched value of its action space, with a row for every agent
                of every environment. Rows that are not ``acting`` are ignored, and need only the
                right shape. Numbers of another dtype are converted if none changes its value.

        Raises:
            InvalidAction: an action that is not in the space; nothing has then been sent.
            EpisodeOver: an episode is over, and the mode is ``DISABLED``.
            ServerUnavailable: environments were lost, and no server takes them.
            FarsimError: what a server answered.
        """
        fleet = self._fleet
        self.check_running()
        if len(actions) != len(self.groups):
            names = ", ".join(f"'{group.name}'" for group in self.groups)
            raise InvalidAction(
                f"actions for {len(actions)} groups; this simulator has {len(self.groups)}: {names}"
            )
        fitted = [fleet.whole.fit(number, action) for number, action in enumerate(actions)]
        fleet.send_step(fitted, fleet.whole)
        return MultiAgentStep.merge(fleet, fleet.receive_step(fleet.whole))

    def check_running(self) -> None:
        """Raises unless a step is possible for all environments.

        Raises:
            ProtocolError: there has been no reset yet, or a call failed and it has to come again.
            EpisodeOver: an episode is over, and the mode is ``DISABLED``.
        """
        self._fleet.check_running()

    def render(self) -> list[NDArray[np.uint8]] | None:
        """One RGB picture, uint8 [height, width, 3], of each environment; None without a mode.

        Raises:
            SessionLost: environments were lost and have not been reset since.
        """
        self._fleet.check_open()
        return None if self.render_mode is None else self._fleet.render()

    def close(self) -> None:
        """Frees the environments; again does nothing."""
        self._fleet.close()

    def __enter__(self) -> RemoteMultiAgentVectorEnv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a RemoteMultiAgentVectorEnv is a connection of this process and can not be pickled or "
            "copied: make another one where it is needed"
        )

    def __repr__(self) -> str:
        return f"RemoteMultiAgentVectorEnv({self.description.name}, num_envs={self.num_envs})"
