"""Gymnasium vector environments, whose author has already made a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from farsim import spaces
from simserver.adapters import infos as info_columns
from simserver.simulator import Batch, BatchedValue, BatchSimulator, Group, GroupBatch, IntArray


class VectorEnvSimulator(BatchSimulator):
    """A vector environment, which resets its environments in its own mode.

    It is always stepped whole, and reset whole except where that mode is ``DISABLED``. One that
    takes a single number as its seed, having one random stream for all of its environments, is
    given a number that all seeds together make up.

    Args:
        num_envs: how many environments ``make_vec`` is asked for.
        make_vec: makes the vector environment, from ``num_envs``.
    """

    def __init__(
        self, num_envs: int, *, make_vec: Callable[..., gym.vector.VectorEnv[Any, Any, Any]]
    ) -> None:
        self._env = make_vec(num_envs=num_envs)
        if self._env.num_envs != num_envs:
            raise ValueError(f"asked for {num_envs} environments, got {self._env.num_envs}")
        mode = self._env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.own_autoreset = AutoresetMode(mode)
        if self._env.render_mode == "rgb_array":
            self.render_modes = ("rgb_array",)  # type: ignore[misc]
        self._num_envs = num_envs
        self._over = np.zeros(num_envs, np.bool_)
        self._has_one_stream = False
        self.groups = (Group(self._env.single_observation_space, self._env.single_action_space),)
        limit = self._env.spec.max_episode_steps if self._env.spec else None
        self.max_episode_steps = limit or 0

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        mask = np.zeros(self._num_envs, np.bool_)
        mask[envs] = True
        seed: Any = None
        if seeds is not None:
            seed = [None] * self._num_envs
            for env, value in zip(envs.tolist(), seeds, strict=True):
                seed[env] = value & 0xFFFF_FFFF_FFFF_FFFF
        if mask.all():
            observation, infos = self._reset_all(seed)
        elif self.own_autoreset is AutoresetMode.DISABLED:
            observation, infos = self._env.reset(seed=seed, options={"reset_mask": mask})
        else:
            raise ValueError(
                "this vector environment resets its environments by itself: reset all at once"
            )
        self._over[envs] = False
        part = GroupBatch(
            spaces.take(self.groups[0].observation_space, observation, envs),
            infos={
                name: info
                for name, info in info_columns.vector_columns(infos, self._num_envs).items()
                if mask.all()
            },
        )
        return Batch([part], started=envs)

    def _reset_all(self, seeds: Any) -> tuple[Any, dict[str, Any]]:
        if seeds is not None and self._has_one_stream:
            numbers = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
            return self._env.reset(seed=int(numbers[0]))
        try:
            return self._env.reset(seed=seeds)
        except gym.error.Error:
            # What Gymnasium says of a seed that is no whole number.
            if seeds is None or self._has_one_stream:
                raise
            self._has_one_stream = True
            return self._reset_all(seeds)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        observation, reward, terminated, truncated, infos = self._env.step(actions[0])
        terminated = np.asarray(terminated, np.bool_)
        truncated = np.asarray(truncated, np.bool_)
        done = terminated | truncated
        part = GroupBatch(observation, np.asarray(reward, np.float64), terminated, truncated)
        if self.own_autoreset is AutoresetMode.SAME_STEP:
            started = np.flatnonzero(done)
            if len(started):
                part.final_rows = started
                final = (
                    [infos["final_obs"][row] for row in started]
                    if isinstance(infos["final_obs"], np.ndarray)
                    else spaces.unbatch(
                        self.groups[0].observation_space,
                        spaces.take(self.groups[0].observation_space, infos["final_obs"], started),
                        len(started),
                    )
                )
                part.final_observation = spaces.batch(self.groups[0].observation_space, list(final))
        else:
            started = np.flatnonzero(self._over)
        rest = {k: v for k, v in infos.items() if "final_" not in k}
        part.infos = info_columns.vector_columns(rest, self._num_envs)
        self._over = done
        return Batch([part], started=started)

    def render(self, envs: IntArray) -> list[np.ndarray]:
        frames: Any = self._env.render()
        if frames is None:
            raise ValueError("the environment rendered nothing")
        return [np.asarray(frames[env]) for env in envs.tolist()]

    def close(self) -> None:
        self._env.close()
