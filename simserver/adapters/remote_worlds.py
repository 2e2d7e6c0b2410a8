"""Environments that run elsewhere and speak another protocol, one connection for each."""

from __future__ import annotations

import abc
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from gymnasium import Space

from farsim import spaces
from farsim.errors import SimulatorFault
from simserver.adapters import infos as info_columns
from simserver.simulator import Batch, BatchedValue, BatchSimulator, Group, GroupBatch, IntArray

logger = logging.getLogger(__name__)

#: Requests under way at the same time; each holds a thread that does nothing but wait.
_THREADS = 64

_T = TypeVar("_T")


@dataclass
class Sight:
    """What a world looks like after a reset or a step.

    Attributes:
        observation: a member of the observation space.
        reward: of the step.
        terminated: the world reached an end.
        truncated: it was stopped from outside.
        info: as Gymnasium's.
    """

    observation: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class World(abc.ABC):
    """One environment at the other end of one connection.

    Attributes:
        observation_space: of ``Sight.observation``.
        action_space: of what ``step`` takes.
        description: one line for people.
    """

    observation_space: Space[Any]
    action_space: Space[Any]
    description: str = ""

    @abc.abstractmethod
    def reset(self, seed: int | None) -> Sight:
        """Starts an episode. ``seed`` is from 0 to 2^31 - 1, or None to go on at random."""

    @abc.abstractmethod
    def step(self, action: Any) -> Sight:
        """Advances by one action."""

    @abc.abstractmethod
    def close(self) -> None:
        """Leaves. May be called while another thread waits in ``reset`` or ``step``."""


class RemoteWorlds(BatchSimulator):
    """``num_envs`` worlds; their requests are under way at the same time.

    A world that fails is left, and another one joined when its next episode starts.

    Args:
        num_envs: how many.
        connect: joins a world.
    """

    def __init__(self, num_envs: int, *, connect: Callable[[], World]) -> None:
        self._connect = connect
        # Left again at once: a description alone should not hold a place on a small server.
        first = connect()
        first.close()
        self.groups = (Group(first.observation_space, first.action_space),)
        self._worlds: list[World | None] = [None] * num_envs
        self._last: list[Any] = [None] * num_envs
        self._pool = ThreadPoolExecutor(min(num_envs, _THREADS), "worlds") if num_envs > 1 else None

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        chosen: list[int | None] = [None] * len(envs)
        if seeds is not None:
            chosen = [seed & 0x7FFF_FFFF for seed in seeds]
        outcomes = self._together(
            [
                partial(self._begin, env, seed)
                for env, seed in zip(envs.tolist(), chosen, strict=True)
            ]
        )
        for env, outcome in zip(envs.tolist(), outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._leave(env)
                # Never a ValueError, which would say that no environment has been reset.
                raise SimulatorFault(
                    f"environment {env} can not be reset: {type(outcome).__name__}: {outcome}"
                ) from outcome
        sights = [outcome for outcome in outcomes if isinstance(outcome, Sight)]
        for env, sight in zip(envs.tolist(), sights, strict=True):
            self._last[env] = sight.observation
        return Batch([self._group_batch(sights)], started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        singles = spaces.unbatch(self.groups[0].action_space, actions[0], len(envs))
        outcomes = self._together(
            [
                partial(self._advance, env, action)
                for env, action in zip(envs.tolist(), singles, strict=True)
            ]
        )
        faults: dict[int, Exception] = {}
        sights = []
        for env, outcome in zip(envs.tolist(), outcomes, strict=True):
            if isinstance(outcome, Exception):
                logger.warning("environment %d failed: %s", env, outcome)
                faults[env] = outcome
                self._leave(env)
                outcome = Sight(self._last[env], truncated=True)
            self._last[env] = outcome.observation
            sights.append(outcome)
        batch = self._group_batch(sights)
        batch.reward = np.array([sight.reward for sight in sights], np.float64)
        batch.terminated = np.array([sight.terminated for sight in sights], np.bool_)
        batch.truncated = np.array([sight.truncated for sight in sights], np.bool_)
        return Batch([batch], faults)

    def close(self) -> None:
        for env in range(len(self._worlds)):
            self._leave(env)
        if self._pool is not None:
            self._pool.shutdown()

    def _begin(self, env: int, seed: int | None) -> Sight:
        world = self._worlds[env]
        if world is None:
            world = self._worlds[env] = self._connect()
            # Servers may begin every connection with the same random numbers.
            seed = secrets.randbits(31) if seed is None else seed
        return self._fitting(world.reset(seed))

    def _advance(self, env: int, action: Any) -> Sight:
        world = self._worlds[env]
        if world is None:
            raise SimulatorFault("the world has been left")
        return self._fitting(world.step(action))

    def _fitting(self, sight: Sight) -> Sight:
        """``sight`` if its observation has the space's structure, so that it fails alone if not."""
        spaces.batch(self.groups[0].observation_space, [sight.observation])
        return sight

    def _together(self, calls: Sequence[Callable[[], _T]]) -> list[_T | Exception]:
        def outcome(call: Callable[[], _T]) -> _T | Exception:
            try:
                return call()
            except Exception as error:
                return error

        if self._pool is None or len(calls) == 1:
            return [outcome(call) for call in calls]
        return list(self._pool.map(outcome, calls))

    def _leave(self, env: int) -> None:
        world, self._worlds[env] = self._worlds[env], None
        if world is not None:
            try:
                world.close()
            except Exception:
                logger.warning("environment %d failed to close", env, exc_info=True)

    def _group_batch(self, sights: Sequence[Sight]) -> GroupBatch:
        return GroupBatch(
            observation=spaces.batch(
                self.groups[0].observation_space, [sight.observation for sight in sights]
            ),
            infos=info_columns.columns([sight.info for sight in sights]),
        )
