"""One environment of a simulator, in the terms of its agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from farsim import options as option_values
from farsim import spaces
from farsim.errors import Unsupported
from simserver.catalogue import Entry
from simserver.episodes import Episodes
from simserver.simulator import Batch, BatchSimulator, Group

_ONE = np.zeros(1, np.int64)


@dataclass
class Moment:
    """What there is to see at one moment, by agent.

    Attributes:
        observations: of the agents that are there.
        rewards: since the moment before; empty after a reset.
        terminated: agents whose part the world has ended.
        truncated: agents whose part was stopped from outside.
        masks: for those with action masks, bool arrays [n], one for each discrete leaf.
        infos: numbers of the first agent, by name.
        fault: of the simulator; the moment is then worth nothing.
    """

    observations: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    terminated: set[str] = field(default_factory=set)
    truncated: set[str] = field(default_factory=set)
    masks: dict[str, tuple[np.ndarray[Any, Any], ...]] = field(default_factory=dict)
    infos: dict[str, Any] = field(default_factory=dict)
    fault: Exception | None = None

    @property
    def ended(self) -> set[str]:
        return self.terminated | self.truncated


class World:
    """One environment of a simulator from the catalogue.

    Args:
        entry: of the catalogue.
        options: values of its parameters that are not the defaults.

    Raises:
        InvalidOption, UnknownOption: of ``options``.
        Unsupported: the simulator resets itself, and so has no last observation.
    """

    def __init__(self, entry: Entry, options: Mapping[str, Any]) -> None:
        known = {parameter.name: parameter for parameter in entry.parameters}
        values = {name: parameter.default for name, parameter in known.items()}
        for name, value in options.items():
            option_values.known(name, known, entry.name)
            values[name] = option_values.check(name, known[name].space, value, known[name].choices)
        self.options = values
        self._episodes = Episodes(lambda: _make(entry, values), 1, AutoresetMode.DISABLED)
        self.groups: tuple[Group, ...] = self._episodes.groups
        self.agents = tuple(agent for group in self.groups for agent in group.agents)

    def reset(self, seed: int) -> Moment:
        """Starts an episode."""
        return self._moment(self._episodes.reset(_ONE, [seed], {}, {}))

    def step(self, actions: Mapping[str, Any]) -> Moment:
        """Advances by one action of each agent; agents that are not named do what is zero."""
        batched = []
        for group in self.groups:
            (zero,) = spaces.unbatch(group.action_space, spaces.zeros(group.action_space, 1), 1)
            rows = [actions.get(agent, zero) for agent in group.agents]
            batched.append(spaces.batch(group.action_space, rows))
        return self._moment(self._episodes.step(_ONE, batched))

    def sample(self, moment: Moment, rng: np.random.Generator) -> dict[str, Any]:
        """Random actions, of those allowed, for the agents that act."""
        actions = {}
        for group in self.groups:
            for agent in group.agents:
                if agent in moment.observations and agent not in moment.ended:
                    actions[agent] = _sample(group, moment.masks.get(agent, ()), rng)
        return actions

    def close(self) -> None:
        self._episodes.close()

    def _moment(self, batch: Batch) -> Moment:
        moment = Moment(fault=next(iter(batch.faults.values()), None))
        for group, part in zip(self.groups, batch.groups, strict=True):
            rows = range(len(group.agents)) if part.rows is None else part.rows.tolist()
            names = [group.agents[row] for row in rows]
            values = spaces.unbatch(group.observation_space, part.observation, len(names))
            for row, (agent, value) in enumerate(zip(names, values, strict=True)):
                moment.observations[agent] = value
                if part.reward is not None:
                    moment.rewards[agent] = float(part.reward[row])
                if part.terminated is not None and part.terminated[row]:
                    moment.terminated.add(agent)
                if part.truncated is not None and part.truncated[row]:
                    moment.truncated.add(agent)
                if part.action_masks:
                    moment.masks[agent] = tuple(mask[row].copy() for mask in part.action_masks)
            for name, info in part.infos.items():
                if len(info.values) and not isinstance(info.values[0], str):
                    moment.infos.setdefault(name, np.array(info.values[0]))
        return moment


def _make(entry: Entry, values: Mapping[str, Any]) -> BatchSimulator:
    simulator = entry.make(1, values)
    if simulator.own_autoreset is not None:
        simulator.close()
        raise Unsupported(
            f"'{entry.name}' starts its next episode by itself and does not show the end of the "
            "last: run it as gymnasium/<id>",
            entry.name,
        )
    return simulator


def _sample(group: Group, masks: Sequence[np.ndarray[Any, Any]], rng: np.random.Generator) -> Any:
    space = group.action_space
    space.seed(int(rng.integers(2**31)))
    if len(masks) == 1 and masks[0].any() and hasattr(space, "start") and not space.shape:
        return space.start + rng.choice(np.flatnonzero(masks[0]))
    return space.sample()
