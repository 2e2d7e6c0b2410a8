"""PettingZoo environments, one object for each environment of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from farsim import spaces
from farsim.errors import SimulatorFault
from simserver.adapters import constructor
from simserver.adapters.agent_groups import AgentGroup, groups_of
from simserver.adapters.agent_rows import AgentRows
from simserver.adapters.pettingzoo_games import AECGame, Agent, Game, ParallelGame
from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    IntArray,
    Parameter,
)

logger = logging.getLogger(__name__)


class PettingZooSimulator(BatchSimulator):
    """Runs ``num_envs`` environments one after another; an exception fails just its own.

    A ``ParallelEnv``'s agents act all at once, an ``AECEnv``'s in turns. ``groups_of`` says which
    agents are a group. A member ``action_mask`` of an agent's observation or info becomes its
    mask; what is left of an observation {"observation", "action_mask"} is the observation alone.

    Args:
        num_envs: how many.
        make_env: makes one, from keyword arguments.
        declared: its parameters; those with ``per_episode`` reach ``reset`` in its ``options``.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        make_env: Callable[..., Any],
        declared: Sequence[Parameter],
        **options: Any,
    ) -> None:
        self.parameters = tuple(declared)  # type: ignore[misc]
        arguments = {
            parameter.name: constructor.argument(parameter, options[parameter.name])
            for parameter in declared
            if not parameter.per_episode
        }
        defaults = {p.name: options[p.name] for p in declared if p.per_episode}
        self._episode_options: list[dict[str, Any]] = [dict(defaults) for _ in range(num_envs)]
        self._make: Callable[[], Game] = lambda: _game(make_env(**arguments))
        first = self._make()
        modes = first.env.metadata.get("render_modes") or ()
        if "rgb_array" in modes and constructor.takes_render_mode(make_env):
            first.env.close()
            self._make = lambda: _game(make_env(render_mode="rgb_array", **arguments))
            first = self._make()
            self.render_modes = ("rgb_array",)  # type: ignore[misc]
        self._games: list[Game | None] = [first, *[None] * (num_envs - 1)]
        #: What each agent saw last, for a fault to come; agents whose episode is over have none.
        self._last: list[dict[Agent, Any]] = [{} for _ in range(num_envs)]
        told = first.reset(None, dict(defaults) or None)
        self._groups: list[AgentGroup] = groups_of(
            list(first.env.possible_agents),
            first.env.observation_space,
            first.env.action_space,
            {agent: seen.info for agent, seen in told.items()},
        )
        self.groups = tuple(each.group for each in self._groups)

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        singles = {
            parameter.name: spaces.unbatch(parameter.space, options[parameter.name], len(envs))
            for parameter in self.parameters
            if parameter.name in options
        }
        rows = AgentRows(self._groups)
        for i, env in enumerate(envs.tolist()):
            chosen = self._episode_options[env]
            chosen.update({name: values[i] for name, values in singles.items()})
            seed = constructor.seed(None if seeds is None else seeds[i])
            try:
                game = self._game(env)
                told = game.reset(seed, dict(chosen) or None)
                self._last[env] = rows.add(env, told, game.acting)
            except Exception as error:
                # Never a ValueError, which would say that no environment has been reset.
                self._discard(env)
                raise SimulatorFault(
                    f"environment {env} can not be reset: {type(error).__name__}: {error}"
                ) from error
        batch = Batch(rows.batches(started=True), started=envs)
        batch.episode_options = {
            parameter.name: spaces.batch(
                parameter.space,
                [self._episode_options[env][parameter.name] for env in envs.tolist()],
            )
            for parameter in self.parameters
            if parameter.per_episode
        }
        return batch

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        singles = [
            spaces.unbatch(each.group.action_space, sent, len(envs) * len(each.ids))
            for each, sent in zip(self._groups, actions, strict=True)
        ]
        rows = AgentRows(self._groups)
        faults: dict[int, Exception] = {}
        for i, env in enumerate(envs.tolist()):
            try:
                game = self._game(env)
                chosen = {
                    agent: values[i * len(each.ids) + place]
                    for each, values in zip(self._groups, singles, strict=True)
                    for place, agent in enumerate(each.ids)
                    if agent in game.acting
                }
                told = game.step(chosen)
                self._last[env] |= rows.add(env, told, game.acting)
                gone = self._last[env].keys() - game.going
                rows.stop(env, {agent: self._last[env][agent] for agent in gone - told.keys()})
                for agent in gone:
                    del self._last[env][agent]
            except Exception as error:
                logger.warning("environment %d failed", env, exc_info=True)
                faults[env] = error
                rows.stop(env, self._last[env])
                self._discard(env)
        return Batch(rows.batches(), faults)

    def render(self, envs: IntArray) -> list[np.ndarray]:
        return [np.asarray(self._game(env).env.render()) for env in envs.tolist()]

    def close(self) -> None:
        for env in range(len(self._games)):
            self._discard(env)

    def _game(self, env: int) -> Game:
        existing = self._games[env]
        if existing is None:
            existing = self._games[env] = self._make()
        return existing

    def _discard(self, env: int) -> None:
        existing, self._games[env] = self._games[env], None
        self._last[env] = {}
        if existing is not None:
            try:
                existing.env.close()
            except Exception:
                logger.warning("environment %d failed to close", env, exc_info=True)


def _game(env: Any) -> Game:
    import pettingzoo  # It comes with the environment, not with farsim.

    if isinstance(env, pettingzoo.ParallelEnv):
        return ParallelGame(env)
    if isinstance(env, pettingzoo.AECEnv):
        return AECGame(env)
    raise TypeError(f"{type(env).__name__} is neither a pettingzoo.ParallelEnv nor an AECEnv")
