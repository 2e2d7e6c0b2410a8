"""Single Gymnasium environments, one object for each environment of the batch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

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
            parameter.name: constructor.plain(options[parameter.name])
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
        self._last: list[Any] = [None] * num_envs
        _, info = first.reset(options=dict(self._defaults) or None)
        self.groups = (
            Group(
                first.observation_space,
                first.action_space,
                has_action_mask="action_mask" in info
                and isinstance(first.action_space, (Discrete, gym.spaces.MultiDiscrete)),
            ),
        )
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
        observations, infos = [], []
        for i, env in enumerate(envs.tolist()):
            self._episode_options[env].update({name: rows[i] for name, rows in singles.items()})
            seed = None if seeds is None else seeds[i]
            try:
                observation, info = self._environment(env).reset(
                    seed=constructor.seed(seed), options=self._episode_options[env] or None
                )
                self._last[env] = self._fitting(observation)
            except Exception as error:
                # Never a ValueError, which would say that no environment has been reset.
                self._discard(env)
                raise SimulatorFault(
                    f"environment {env} can not be reset: {type(error).__name__}: {error}"
                ) from error
            observations.append(observation)
            infos.append(info)
        batch = Batch([self._group_batch(observations, infos)], started=envs)
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
        count = len(envs)
        reward = np.zeros(count)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        observations, infos = [], []
        faults: dict[int, Exception] = {}
        for i, (env, action) in enumerate(zip(envs.tolist(), singles, strict=True)):
            info: Mapping[str, Any] = {}
            try:
                outcome = self._environment(env).step(action)
                observation, reward[i], terminated[i], truncated[i], info = outcome
                self._last[env] = self._fitting(observation)
            except Exception as error:
                logger.warning("environment %d failed", env, exc_info=True)
                faults[env] = error
                reward[i], terminated[i], truncated[i], info = 0, False, True, {}
                self._discard(env)
            observations.append(self._last[env])
            infos.append(info)
        batch = self._group_batch(observations, infos)
        batch.reward, batch.terminated, batch.truncated = reward, terminated, truncated
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

    def _fitting(self, observation: Any) -> Any:
        """``observation`` if it has the space's structure, so that it fails alone if it has not.

        An array of the right shape and dtype, by far the most common, is seen at a glance.
        """
        space = self.groups[0].observation_space
        if not (
            isinstance(observation, np.ndarray)
            and observation.shape == space.shape
            and observation.dtype == space.dtype
        ):
            spaces.batch(space, [observation])
        return observation

    def _group_batch(self, observations: list[Any], infos: list[Any]) -> GroupBatch:
        group = self.groups[0]
        masks: tuple[np.ndarray, ...] = ()
        if group.has_action_mask:
            masks = (np.stack([self._mask(info) for info in infos]),)
            infos = [{k: v for k, v in info.items() if k != "action_mask"} for info in infos]
        return GroupBatch(
            observation=spaces.batch(group.observation_space, observations),
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
