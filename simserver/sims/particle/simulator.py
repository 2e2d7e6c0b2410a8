"""Any Particle scenario as a batch simulator."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete, Text
from numpy.typing import NDArray

from simserver.sims.particle import render, state
from simserver.sims.particle.actions import Controls
from simserver.sims.particle.physics import Physics
from simserver.sims.particle.scenario import Scenario
from simserver.sims.particle.streams import Streams
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    Info,
    IntArray,
    Parameter,
)

MAX_CYCLES = Parameter(
    "max_cycles",
    Discrete(1_000_000, start=1),
    25,
    "steps after which an episode is truncated",
)
ACTION_MODE = Parameter(
    "action_mode",
    Text(16, charset="abcdefghijklmnopqrstuvwxyz"),
    "discrete",
    "one of the moves and symbols, or numbers from 0 to 1 for each of them",
    choices=("discrete", "continuous"),
)


class Particle(BatchSimulator):
    """Worlds of one scenario, stepped together; ``simulator_of`` makes a class for each.

    Each team of the scenario is a group. Observation: float32 [numbers], as the scenario says.
    Action: ``Discrete``, move + 5 * symbol, with the moves none, left, right, down, up; or with
    ``action_mode=continuous`` ``Box(0, 1)``, the five moves and then the message. All agents of a
    world end together, after ``max_cycles`` steps (truncated) or at success (terminated).

    The same seed gives the same episodes as in mpe2, whatever else is in the batch.
    """

    scenario: ClassVar[type[Scenario]]
    render_modes = ("rgb_array",)
    can_save_state = True

    def __init__(self, num_envs: int, *, max_cycles: int, action_mode: str, **options: Any) -> None:
        self.max_episode_steps = int(max_cycles)
        self._title = re.sub(r"(?<!^)(?=[A-Z])", "_", self.scenario.__name__).lower()
        self._scenario = scenario = self.scenario(**options)
        bodies = scenario.bodies
        self._choice_names = tuple(scenario.choices)
        self._choice_bounds = tuple(scenario.choices.values())
        self._worlds = Worlds.empty(bodies, self._choice_names, num_envs)
        self._streams = Streams(num_envs)
        self._physics = Physics(bodies)
        continuous = action_mode == "continuous"
        self._controls = [Controls(team, scenario.vocabulary, continuous) for team in bodies.teams]
        self._settings = {
            "scenario": type(scenario).__name__,
            "max_cycles": self.max_episode_steps,
            "action_mode": action_mode,
            **{name: np.asarray(value).tolist() for name, value in options.items()},
        }
        seen = self._observe(Worlds.empty(bodies, self._choice_names, 1))
        self.groups = tuple(
            Group(
                Box(-np.inf, np.inf, observation.shape[1:], np.float32),
                controls.space,
                team.agents,
                team.name,
            )
            for team, controls, observation in zip(bodies.teams, self._controls, seen, strict=True)
        )

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        if seeds is not None:
            self._streams.seed(envs, seeds)
        scenario = self._scenario
        choices, uniform = self._streams.draw(envs, self._choice_bounds, scenario.num_draws)
        worlds = Worlds.empty(scenario.bodies, self._choice_names, len(envs))
        worlds.choices[:] = choices
        worlds.positions[:] = scenario.place(uniform)
        self._worlds.store(envs, worlds)
        return Batch([GroupBatch(seen) for seen in self._observe(worlds)], started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        worlds = self._worlds.select(envs)
        bodies = worlds.bodies
        force = np.zeros_like(worlds.positions)
        for team, controls, action in zip(bodies.teams, self._controls, actions, strict=True):
            agents = bodies.parts[team.name]
            controls.read(action, force[agents], worlds.messages[agents])
        self._physics.step(worlds, force)
        worlds.steps += 1

        outcome = self._scenario.judge(worlds)
        truncated = worlds.steps >= self.max_episode_steps
        terminated = np.zeros(len(envs), np.bool_)
        if outcome.success is not None:
            terminated = outcome.success & ~truncated
        groups = []
        for team, observation in zip(bodies.teams, self._observe(worlds), strict=True):
            count = len(team.agents)
            infos = outcome.infos.get(team.name, {})
            groups.append(
                GroupBatch(
                    observation,
                    _rows(outcome.rewards[team.name], count),
                    _rows(terminated, count),
                    _rows(truncated, count),
                    infos={name: Info(_rows(values, count)) for name, values in infos.items()},
                )
            )
        self._worlds.store(envs, worlds)
        return Batch(groups)

    def render(self, envs: IntArray) -> Sequence[NDArray[np.uint8]]:
        return [
            render.picture(self._title, self._scenario, worlds, self.max_episode_steps)
            for worlds in (self._worlds.select_one(env) for env in envs.tolist())
        ]

    def save_state(self, envs: IntArray) -> list[bytes]:
        return [
            state.dump(self._settings, self._worlds.arrays, env, self._streams.dump(env))
            for env in envs.tolist()
        ]

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        loaded = [self._parse(data) for data in states]  # All, before any is put in place.
        for env, (values, random) in zip(envs.tolist(), loaded, strict=True):
            for name, array in self._worlds.arrays.items():
                array[..., env] = values[name]
            self._streams.put(env, random)
        return Batch([GroupBatch(seen) for seen in self._observe(self._worlds.select(envs))])

    def _parse(self, data: bytes) -> tuple[dict[str, NDArray[Any]], np.random.Generator]:
        arrays = self._worlds.arrays
        values, stream = state.parse(self._settings, arrays, data, self._streams.size)
        bounds = np.array(self._choice_bounds, np.int64)
        if ((values["choices"] < 0) | (values["choices"] >= bounds)).any():
            raise ValueError("the saved state has choices that the scenario does not have")
        if not 0 <= values["steps"] <= self.max_episode_steps:
            raise ValueError(
                f"the saved state is after {values['steps']} steps, of at most "
                f"{self.max_episode_steps}"
            )
        return values, self._streams.parse(stream)

    def _observe(self, worlds: Worlds) -> list[NDArray[np.float32]]:
        """For each team float32 [W * n, numbers]."""
        parts = self._scenario.observe(worlds)
        observations = []
        for team in worlds.bodies.teams:
            seen = np.concatenate(parts[team.name], axis=1, dtype=np.float32, casting="same_kind")
            agents, numbers, count = seen.shape
            # One copy, from worlds last to worlds first.
            rows = seen.transpose(2, 0, 1).reshape(count * agents, numbers)
            observations.append(np.ascontiguousarray(rows))
        return observations


def simulator_of(scenario: type[Scenario]) -> type[Particle]:
    """The batch simulator of a scenario."""
    members = {
        "scenario": scenario,
        "description": scenario.description,
        "parameters": (*scenario.parameters, MAX_CYCLES, ACTION_MODE),
        "__doc__": scenario.__doc__,
        "__module__": scenario.__module__,
    }
    return type(scenario.__name__, (Particle,), members)


def _rows(values: NDArray[Any], agents: int) -> NDArray[Any]:
    """[W * n] of what broadcasts to [n, W]."""
    if values.ndim == 1:
        return values.repeat(agents) if agents > 1 else values
    if len(values) < agents:
        values = np.broadcast_to(values, (agents, values.shape[1]))
    return values.T.reshape(-1)
