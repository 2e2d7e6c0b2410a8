"""One remote environment with several agents, as PettingZoo has them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import pettingzoo
from gymnasium import Space
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.description import Group
from agent.group_step import GroupStep, MultiAgentStep
from agent.remote_multi_agent_vector_env import RemoteMultiAgentVectorEnv
from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.errors import InvalidAction, InvalidTensor, Unsupported


class RemoteParallelEnv(pettingzoo.ParallelEnv[str, Any, Any]):
    """One environment on a server, whose agents act all at once.

        >>> env = RemoteParallelEnv("sim-a:50051", "particle/simple_tag")
        >>> observations, infos = env.reset(seed=1)
        >>> while env.agents:
        ...     actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        ...     observations, rewards, terminations, truncations, infos = env.step(actions)

    ``agents`` are those whose episode goes on: one that ends has its last row in that step and then
    leaves, one that joins late has its first row when it does.

    ``infos[agent]`` has what the simulator says of the agent; besides

    - "action_mask": int8 [n], 1 for what is allowed now, if the simulator says so; for several
      Discrete or MultiDiscrete leaves a dict of such arrays, named "0", "1", ...;
    - "episode_options": after a reset, the per-episode parameters that the episode uses, drawn ones
      included, if there are any;
    - "fault": when the environment failed, or was lost with its server, what went wrong. All agents
      are then ``truncated``, with the observation from before and reward 0, which is no transition.
      The next ``reset`` opens the environment anew where it was lost, on its own server or another
      one, within ``ConnectionOptions.recovery_seconds``.

    A simulator whose agents take turns is refused when it says so, for actions would be lost: use
    ``RemoteMultiAgentVectorEnv``, whose ``acting`` says whose turn it is.

    Not to be pickled or copied; a context manager.

    Args:
        address: ``host:port``; or several, of which the later ones only serve as fallback.
        simulator: a name on offer there; may be empty if there is just one.
        options: values of the simulator's parameters.
        render_mode: "rgb_array" if ``render`` will be used.
        connection: how to connect, and how patient to be.

    Attributes:
        possible_agents: the names of all agents, group after group.
        agents: of those, whose episode goes on.
        observation_spaces: of each agent.
        action_spaces: of each agent.

    Raises:
        ServerUnavailable: the server does not take the environment within ``recovery_seconds``.
        FarsimError: what the server answered.
    """

    def __init__(
        self,
        address: str | Iterable[str],
        simulator: str = "",
        options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        connection: ConnectionOptions | Mapping[str, Any] | None = None,
    ) -> None:
        self._env = RemoteMultiAgentVectorEnv(
            address,
            simulator,
            options=options,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            connection=connection,
        )
        self.render_mode = render_mode
        self.metadata = {
            "name": self._env.description.name,
            "render_modes": list(self._env.description.render_modes),
            "render_fps": 30,
            "is_parallelizable": True,
        }
        self.possible_agents = list(self._env.agents)
        self.agents: list[str] = []
        # A space for each agent, so that they can be seeded one by one.
        self.observation_spaces = self._spaces("observation_space")
        self.action_spaces = self._spaces("action_space")

    def observation_space(self, agent: str) -> Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begins a new episode.

        Args:
            seed: None goes on with the random stream that there is.
            options: per-episode parameters of the simulator; they hold until another reset gives
                others. A name that is no parameter is ignored with a warning, as PettingZoo's
                interface lets a caller give any.

        Returns:
            The observation and the infos of each agent that takes part from the start.

        Raises:
            ServerUnavailable: the environment was lost, and no server takes it.
            SimulatorFault: it can not be reset.
            Unsupported: its agents take turns.
            FarsimError: what the server answered.
        """
        self.agents = []
        step = self._env.reset(seed=seed, options=self._known(options or {}))
        rows = _rows(self._env.groups, step)
        self._refuse_turns(rows, set(rows))
        self.agents = [agent for agent in self.possible_agents if agent in rows]
        infos = self._infos(step, self.agents)
        given = {
            name: values[0]
            for name, values in step.episode_options.items()
            if f"_{name}" in step.episode_options
        }
        if given:
            for info in infos.values():
                info["episode_options"] = dict(given)
        return self._observations(step, self.agents), infos

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[
        dict[str, Any],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Advances the environment by one action of each of ``agents``.

        Args:
            actions: one for each of ``agents``, and no others.

        Returns:
            Observations, rewards, terminations, truncations and infos of all who were in the
            episode, and of who joined.

        Raises:
            EpisodeOver: there are no agents; ``reset`` comes first.
            InvalidAction: an agent is missing or too many, or an action is not in its space;
                nothing has then been sent.
            Unsupported: the agents take turns.
            FarsimError: what the server answered.
        """
        self._env.check_running()
        given, expected = set(actions), set(self.agents)
        if given != expected:
            missing, extra = sorted(expected - given), sorted(given - expected)
            raise InvalidAction(
                f"actions for each of the agents {self.agents}: "
                f"{f'{missing} are missing' if missing else f'{extra} are not among them'}",
                "actions",
            )
        step = self._env.step([self._batched(group, actions) for group in self._env.groups])
        rows = _rows(self._env.groups, step)
        told = [agent for agent in self.possible_agents if agent in rows or agent in expected]
        terminations = {agent: bool(rows.get(agent, _ABSENT)[1]) for agent in told}
        truncations = {agent: bool(rows.get(agent, _ABSENT)[2]) for agent in told}
        going_on = [a for a in told if not terminations[a] and not truncations[a]]
        self.agents = going_on
        self._refuse_turns(rows, set(going_on) & set(rows))
        infos = self._infos(step, told)
        if step.faults:
            for info in infos.values():
                info["fault"] = step.faults[0]
        return (
            self._observations(step, told),
            {agent: float(rows.get(agent, _ABSENT)[0]) for agent in told},
            terminations,
            truncations,
            infos,
        )

    def render(self) -> NDArray[np.uint8] | None:
        """An RGB picture, uint8 [height, width, 3]; None without a ``render_mode``.

        Raises:
            SessionLost: the environment was lost and has not been reset since.
        """
        frames = self._env.render()
        return None if frames is None else frames[0]

    def state(self) -> NDArray[Any]:
        """Not to be had: the simulator shows what its agents observe.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(
            f"simulator '{self.metadata['name']}' has no view of all of its state on the wire: "
            "join the agents' observations instead"
        )

    def close(self) -> None:
        """Frees the environment; again does nothing."""
        self.agents = []
        self._env.close()

    def __enter__(self) -> RemoteParallelEnv:
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
            "a RemoteParallelEnv is a connection of this process and can not be pickled or copied: "
            "make another one where it is needed"
        )

    # -- what goes in ---------------------------------------------------------------------

    def _spaces(self, kind: str) -> dict[str, Space[Any]]:
        return {
            agent: copy.deepcopy(getattr(group, kind))
            for group in self._env.groups
            for agent in group.agents
        }

    def _known(self, options: Mapping[str, Any]) -> dict[str, Any]:
        declared = self._env.description.parameters
        for name in options:
            if name not in declared:
                known = ", ".join(p.name for p in declared.values() if p.per_episode) or "none"
                warnings.warn(
                    f"'{name}' is no parameter of simulator '{self.metadata['name']}' and is "
                    f"ignored; a reset takes: {known}",
                    stacklevel=3,
                )
        return {name: value for name, value in options.items() if name in declared}

    def _batched(self, group: Group, actions: Mapping[str, Any]) -> BatchedValue:
        """One row for each agent of the group; anything for those that are not there."""
        space = group.action_space
        places = [place for place, agent in enumerate(group.agents) if agent in actions]
        try:
            given = spaces.batch(space, [actions[group.agents[place]] for place in places])
        except InvalidTensor as error:
            names = ", ".join(group.agents[place] for place in places)
            raise InvalidAction(f"actions of {names}: {error.message}", "actions") from None
        if len(places) == len(group.agents):
            return given
        every = spaces.zeros(space, len(group.agents))
        return spaces.put(space, every, np.array(places, np.int64), given)

    def _refuse_turns(self, rows: Mapping[str, _Row], going_on: set[str]) -> None:
        waiting = sorted(agent for agent in going_on if not rows[agent][3])
        if waiting:
            self.agents = []
            raise Unsupported(
                f"the agents of simulator '{self.metadata['name']}' take turns ({waiting} are not "
                "to act now), and a parallel environment's act all at once: use "
                "RemoteMultiAgentVectorEnv, whose 'acting' says whose turn it is"
            )

    # -- what comes out -------------------------------------------------------------------

    def _observations(self, step: MultiAgentStep, agents: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for group, part in zip(self._env.groups, step.groups, strict=True):
            count = len(group.agents)
            values = spaces.unbatch(group.observation_space, part.observation, count)
            found |= dict(zip(group.agents, values, strict=True))
        return {agent: found[agent] for agent in agents}

    def _infos(self, step: MultiAgentStep, agents: Iterable[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {agent: {} for agent in self.possible_agents}
        for group, part in zip(self._env.groups, step.groups, strict=True):
            for name, (values, rows) in sorted(part.infos.items()):
                for value, row in zip(values, rows.tolist(), strict=True):
                    _insert(found[group.agents[row]], name, value)
            for row, agent in enumerate(group.agents):
                if part.action_masks:
                    found[agent]["action_mask"] = _mask(part, row)
        return {agent: found[agent] for agent in agents}


#: Reward, terminated, truncated, acting.
_Row = tuple[float, bool, bool, bool]

#: Of an agent in the episode that the reply says nothing about.
_ABSENT: _Row = (0.0, False, False, False)


def _rows(groups: Iterable[Group], step: MultiAgentStep) -> dict[str, _Row]:
    """What is said of each agent that is present."""
    return {
        group.agents[row]: (
            part.reward[row],
            part.terminated[row],
            part.truncated[row],
            part.acting[row],
        )
        for group, part in zip(groups, step.groups, strict=True)
        for row in np.flatnonzero(part.present).tolist()
    }


def _mask(part: GroupStep, row: int) -> Any:
    masks = [mask[row].astype(np.int8) for mask in part.action_masks]
    if len(masks) == 1:
        return masks[0]
    return {str(number): mask for number, mask in enumerate(masks)}


def _insert(info: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value where its path leads, as the dict that it was before it was joined by "/"."""
    *outer, last = name.split("/")
    inside = info
    for part in outer:
        inside = inside.setdefault(part, {})
        if not isinstance(inside, dict):
            # A simulator of its own making has both "a" and "a/b": the second keeps its full name.
            info[name] = value
            return
    inside[last] = value
