"""DeepRM in process: made, played and read in few words, for the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simserver.sims.deeprm import DeepRM
from simserver.simulator import Batch

#: Small enough that slots, backlog and horizon all run full.
TIGHT = {
    "simu_len": 30,
    "num_nw": 3,
    "time_horizon": 8,
    "max_job_len": 6,
    "res_slot": 5,
    "max_job_size": 5,
    "backlog_size": 8,
    "new_job_rate": np.array([0.9, 0.9]),
}


def simulator(num_envs: int, **options: Any) -> DeepRM:
    values = {parameter.name: parameter.default for parameter in DeepRM.parameters}
    assert options.keys() <= values.keys()
    return DeepRM(num_envs, **{**values, **options})


def given_jobs(jobs: Sequence[tuple[int, Sequence[int]]], count: int = 1) -> dict[str, Any]:
    """Reset options with a sequence of (length, sizes), the same for all environments."""
    lengths = np.array([length for length, _ in jobs], np.int64)
    sizes = np.array([size for _, sizes in jobs for size in sizes], np.int64)
    return {"job_lengths": (lengths,) * count, "job_sizes": (sizes,) * count}


def mask_of(batch: Batch) -> np.ndarray:
    return batch.groups[0].action_masks[0]


def compact_of(batch: Batch) -> np.ndarray:
    observation = batch.groups[0].observation
    return observation["compact"] if isinstance(observation, dict) else observation


def info(batch: Batch, name: str) -> Any:
    return batch.groups[0].infos[name].values


def over(batch: Batch) -> np.ndarray:
    return batch.groups[0].terminated | batch.groups[0].truncated


def valid_action(mask: np.ndarray, random: np.random.Generator) -> int:
    return int(random.choice(mask.nonzero()[0]))


def play(
    sim: DeepRM, first: Batch, env: int, random: np.random.Generator, row: int = 0
) -> Iterator[Batch]:
    """The rest of an episode with random valid actions; ``row`` is the environment's in first."""
    batch = first
    while True:
        action = valid_action(mask_of(batch)[row], random)
        batch, row = sim.step(np.array([env]), [np.array([action])]), 0
        yield batch
        if over(batch)[0]:
            return


def record(sim: DeepRM, first: Batch, env: int, seed: int, row: int = 0) -> list[Any]:
    """What the rest of an episode looks like: observations, rewards, masks and its jobs."""
    seen: list[Any] = []
    for batch in play(sim, first, env, np.random.default_rng(seed), row):
        seen += [compact_of(batch).copy(), batch.groups[0].reward, mask_of(batch).copy()]
        if isinstance(batch.groups[0].observation, dict):
            seen.append(batch.groups[0].observation["image"].copy())
    return [*seen, info(batch, "jobs")]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def sequence_numbers(sim: DeepRM, env: int, episodes: int) -> list[bytes]:
    """The arrivals of some episodes, as far as void actions show them: all of them."""
    seen = []
    for _ in range(episodes):
        sim.reset(np.array([env]), None, {})
        seen.append(arrivals(sim, env))
    return seen


def arrivals(sim: DeepRM, env: int = 0) -> bytes:
    """The jobs of the episode at hand, by (enter, length, sizes), with nothing dropped."""
    void = sim.groups[0].action_space.n - 1
    while True:
        batch = sim.step(np.array([env]), [np.array([void])])
        if over(batch)[0]:
            assert info(batch, "jobs_dropped")[0] == 0
            return np.delete(info(batch, "jobs")[0], [2, 3], axis=1).tobytes()
