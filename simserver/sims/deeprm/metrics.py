"""What is said about an episode when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.cluster import Cluster
from simserver.simulator import IntArray


def episode_infos(cluster: Cluster, envs: IntArray) -> dict[str, NDArray[Any]]:
    """Infos of ended episodes, one row for each of the k environments.

    A job's slowdown is (finish - enter) / length. As in the original, it counts for every job
    that was placed, also if it would finish after the episode (SPEC section 8).

    Returns:
        by name: ``jobs`` int32 [k, simu_len, 5 + R], (id, enter, start, finish, length, sizes) by
        id, start and finish -1 for jobs never placed, and rows of -1 after the last job;
        ``slowdown`` float64, the mean, 0 without jobs; ``slowdown_floored`` float64, the mean of
        slowdowns rounded down, which the original publishes; ``slowdown_sum`` float64;
        ``jobs_allocated``, ``jobs_unscheduled`` and ``jobs_dropped``, int32: placed, arrived but
        never placed, and never admitted.
    """
    table = cluster.jobs
    none = table.none
    enter, start = table.enter[envs, :none], table.start[envs, :none]
    finish, length = table.finish[envs, :none], table.length[envs, :none]
    arrived = cluster.arrived[envs]
    jobs = np.empty((len(envs), none, 4 + table.features.shape[2]), np.int32)
    jobs[:, :, 0] = np.arange(none)
    jobs[:, :, 1] = enter
    jobs[:, :, 2] = start
    jobs[:, :, 3] = finish
    jobs[:, :, 4:] = table.features[envs, :none]
    jobs[np.arange(none) >= arrived[:, None]] = -1

    placed = start >= 0
    allocated = placed.sum(axis=1)
    slowdowns = np.where(placed, (finish - enter) / np.maximum(length, 1), 0.0)
    total = slowdowns.sum(axis=1)
    divisor = np.maximum(allocated, 1)
    return {
        "jobs": jobs,
        "slowdown": total / divisor,
        "slowdown_floored": np.floor(slowdowns).sum(axis=1) / divisor,
        "slowdown_sum": total,
        "jobs_allocated": allocated.astype(np.int32),
        "jobs_unscheduled": (arrived - allocated).astype(np.int32),
        "jobs_dropped": cluster.dropped[envs].astype(np.int32),
    }
