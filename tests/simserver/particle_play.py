"""Particle simulators, made and read in tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from simserver.catalogue import BUILT_IN, load
from simserver.sims.particle import Particle
from simserver.simulator import Batch, BatchedValue

NAMES = [name for name in BUILT_IN if name.startswith("particle/")]


def make(name: str, num_envs: int, **options: Any) -> Particle:
    entry = load([name], {})[name]
    values = {parameter.name: parameter.default for parameter in entry.parameters}
    assert options.keys() <= values.keys()
    sim = entry.make(num_envs, {**values, **options})
    assert isinstance(sim, Particle)
    return sim


def random_actions(sim: Particle, random: np.random.Generator, count: int) -> list[BatchedValue]:
    """For ``count`` environments."""
    actions = []
    for group in sim.groups:
        rows = count * len(group.agents)
        if group.action_space.shape:
            actions.append(random.random((rows, *group.action_space.shape), np.float32))
        else:
            actions.append(random.integers(group.action_space.n, size=rows))
    return actions


def take(sim: Particle, actions: list[BatchedValue], envs: list[int]) -> list[BatchedValue]:
    """The actions of some of the environments."""
    return [
        action.reshape(-1, len(group.agents), *action.shape[1:])[envs].reshape(
            -1, *action.shape[1:]
        )
        for group, action in zip(sim.groups, actions, strict=True)
    ]


def arrays(sim: Particle, batch: Batch, place: int) -> list[np.ndarray]:
    """Everything that a batch says about the environment at one place in it."""
    told = []
    for group, part in zip(sim.groups, batch.groups, strict=True):
        assert part.rows is None
        values = [part.observation]
        values += [value for value in (part.reward, part.terminated) if value is not None]
        values += [info.values for info in part.infos.values()]
        count = len(group.agents)
        told += [np.asarray(value)[place * count : (place + 1) * count] for value in values]
    return told
