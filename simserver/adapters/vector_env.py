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

    It is always stepped whole, and reset whole except where that mode is ``DISABLED``. Seeds are
    given as Gymnasium's own vector environments take them, a list; or as an array of numbers below
    2**31 made of them; or, where one random stream is for all environments, as one number that all
    seeds together make up.

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
        #: Ways to give seeds that may be right.
        self._seedings: tuple[Callable[[Sequence[int | None]], Any], ...] = (
            list,
            _short,
            _together,
        )
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

    def _reset_all(self, seeds: Sequence[int | None] | None) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, in the first way that they take seeds in."""
        if seeds is None:
            return self._env.reset(seed=None)
        refusals: list[Exception] = []
        for seeding in list(self._seedings):
            given: Any = seeding(seeds)
            try:
                result = self._env.reset(seed=given)
            except (gym.error.Error, TypeError) as error:
                # What Gymnasium, and others, say of a seed of a type that they do not take.
                refusals.append(error)
            else:
                self._seedings = (seeding,)
                return result
        raise refusals[0]

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


def _short(seeds: Sequence[int | None]) -> IntArray:
    """Numbers that 32 bits have room for, whatever their sign means."""
    states = [np.random.SeedSequence(seed).generate_state(1)[0] for seed in seeds]
    return np.array(states, np.int64) >> 1


def _together(seeds: Sequence[int | None]) -> int:
    known = [seed for seed in seeds if seed is not None]
    return int(np.random.SeedSequence(known).generate_state(1, np.uint64)[0])
