"""Single Gymnasium environments, one object for each environment of the batch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from farsim import spaces
from farsim.errors import SimulatorFault
from simserver.adapters import constructor
from simserver.adapters import infos as info_columns
from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)

logger = logging.getLogger(__name__)


class GymnasiumSimulator(BatchSimulator):
    """Runs ``num_envs`` environments one after another; an exception fails just its own.

    Session parameters are the keyword arguments of the environment's constructor that have a
    number, a boolean or a string as default. A class may instead declare its parameters itself,
    in an attribute ``farsim_parameters``, a tuple of ``Parameter``; those with ``per_episode``
    reach ``reset`` in its ``options``.

    Args:
        num_envs: how many.
        make_env: makes one, from keyword arguments.
        declared: its parameters.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        make_env: Callable[..., gym.Env[Any, Any]],
        declared: Sequence[Parameter],
        **options: Any,
    ) -> None:
        self.parameters = tuple(declared)  # type: ignore[misc]
        self._per_episode = {parameter.name for parameter in declared if parameter.per_episode}
        arguments = {
            parameter.name: constructor.argument(parameter, options[parameter.name])
            for parameter in declared
            if not parameter.per_episode
        }
        self._defaults = {name: options[name] for name in self._per_episode}
        self._episode_options: list[dict[str, Any]] = [
            dict(self._defaults) for _ in range(num_envs)
        ]
        self._make = lambda: make_env(**arguments)
        first = self._make()
        modes = first.metadata.get("render_modes") or ()
        if (
            "rgb_array" in modes
            and first.render_mode != "rgb_array"
            and constructor.takes_render_mode(make_env)
        ):
            first.close()
            self._make = lambda: make_env(render_mode="rgb_array", **arguments)
            first = self._make()
        if first.render_mode == "rgb_array":
            self.render_modes = ("rgb_array",)  # type: ignore[misc]
        self._envs: list[gym.Env[Any, Any] | None] = [first, *[None] * (num_envs - 1)]
        _, info = first.reset(options=dict(self._defaults) or None)
        self.groups = (
            Group(
                first.observation_space,
                first.action_space,
                has_action_mask="action_mask" in info
                and isinstance(first.action_space, (Discrete, MultiDiscrete)),
            ),
        )
        self._seen = _Seen(first.observation_space, num_envs)
        limit = first.spec.max_episode_steps if first.spec else None
        self.max_episode_steps = limit or 0

    @staticmethod
    def parameters_of(make_env: Callable[..., gym.Env[Any, Any]]) -> tuple[Parameter, ...]:
        """What a client may choose of a class's or factory's environments."""
        return constructor.parameters_of(make_env)

    @staticmethod
    def parameters_of_spec(spec: Any) -> tuple[Parameter, ...]:
        """The same for a registered environment, whose registration may change defaults."""
        entry_point = spec.entry_point
        if isinstance(entry_point, str):
            module, _, attribute = entry_point.partition(":")
            entry_point = getattr(importlib.import_module(module), attribute)
        return constructor.parameters_of(entry_point, spec.kwargs)

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
        infos = []
        for i, env in enumerate(envs.tolist()):
            self._episode_options[env].update({name: rows[i] for name, rows in singles.items()})
            seed = None if seeds is None else seeds[i]
            try:
                observation, info = self._environment(env).reset(
                    seed=constructor.seed(seed), options=self._episode_options[env] or None
                )
                self._seen.note(env, observation)
            except Exception as error:
                # Never a ValueError, which would say that no environment has been reset.
                self._discard(env)
                raise SimulatorFault(
                    f"environment {env} can not be reset: {type(error).__name__}: {error}"
                ) from error
            infos.append(info)
        batch = Batch([self._group_batch(envs, infos)], started=envs)
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
        singles = spaces.unbatch(self.groups[0].action_space, actions[0], len(envs))
        rewards, terminations, truncations, infos = [], [], [], []
        faults: dict[int, Exception] = {}
        for env, action in zip(envs.tolist(), singles, strict=True):
            try:
                environment = self._environment(env)
                observation, reward, terminated, truncated, info = environment.step(action)
                reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
                self._seen.note(env, observation)
            except Exception as error:
                logger.warning("environment %d failed", env, exc_info=True)
                faults[env] = error
                reward, terminated, truncated, info = 0.0, False, True, {}
                self._discard(env)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
            infos.append(info)
        batch = self._group_batch(envs, infos)
        batch.reward = np.array(rewards, np.float64)
        batch.terminated = np.array(terminations, np.bool_)
        batch.truncated = np.array(truncations, np.bool_)
        return Batch([batch], faults)

    def render(self, envs: IntArray) -> list[np.ndarray]:
        return [np.asarray(self._environment(env).render()) for env in envs.tolist()]

    def close(self) -> None:
        for env in range(len(self._envs)):
            self._discard(env)

    def _environment(self, env: int) -> gym.Env[Any, Any]:
        existing = self._envs[env]
        if existing is None:
            existing = self._envs[env] = self._make()
        return existing

    def _discard(self, env: int) -> None:
        existing, self._envs[env] = self._envs[env], None
        if existing is not None:
            try:
                existing.close()
            except Exception:
                logger.warning("environment %d failed to close", env, exc_info=True)

    def _group_batch(self, envs: IntArray, infos: list[Any]) -> GroupBatch:
        group = self.groups[0]
        masks: tuple[np.ndarray, ...] = ()
        if group.has_action_mask:
            masks = (np.stack([self._mask(info) for info in infos]),)
            infos = [{k: v for k, v in info.items() if k != "action_mask"} for info in infos]
        return GroupBatch(
            observation=self._seen.batch(envs),
            action_masks=masks,
            infos=info_columns.columns(infos),
        )

    def _mask(self, info: Mapping[str, Any]) -> np.ndarray:
        (full,) = spaces.full_masks(self.groups[0].action_space, 1)
        mask = info.get("action_mask")
        if mask is None:
            return full[0]
        parts = mask if isinstance(mask, tuple) else (mask,)
        return np.concatenate([np.asarray(part).reshape(-1) for part in parts]).astype(np.bool_)


class _Seen:
    """What each environment showed last.

    Args:
        space: of one environment's observations.
        num_envs: how many there are.
    """

    def __init__(self, space: gym.Space[Any], num_envs: int) -> None:
        self._space = space
        self._num_envs = num_envs
        is_array = isinstance(space, (Box, MultiBinary, MultiDiscrete))
        self._block = np.zeros((num_envs, *(space.shape or ())), space.dtype) if is_array else None
        #: Of the observations that go into the block as they are.
        self._shape, self._dtype = space.shape if is_array else None, space.dtype
        self._single: list[Any] = [None] * num_envs

    def note(self, env: int, observation: Any) -> None:
        """Keeps what ``env`` shows if it has the space's structure.

        An array of the right shape and dtype, by far the most common, is seen at a glance.

        Raises:
            InvalidTensor: it has another, and so fails alone.
        """
        if not (
            type(observation) is np.ndarray
            and observation.shape == self._shape
            and observation.dtype == self._dtype
        ):
            batched = spaces.batch(self._space, [observation])
            if self._block is None:
                self._single[env] = observation
                return
            observation = batched[0]
        self._block[env] = observation  # type: ignore[index]

    def batch(self, envs: IntArray) -> BatchedValue:
        """What ``envs`` showed last."""
        if self._block is None:
            return spaces.batch(self._space, [self._single[env] for env in envs.tolist()])
        return self._block if len(envs) == self._num_envs else self._block[envs]
