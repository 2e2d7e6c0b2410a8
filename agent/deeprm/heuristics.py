"""The textbook schedulers for DeepRM, on batches of cluster states.

Each returns int64 [n]: the slot whose job to start, or M, the void action, to let time pass. All
but the random ones only start jobs that fit now; among equal scores the lowest slot wins.

Source: H. Mao et al., "Resource Management with Deep Reinforcement Learning", HotNets 2016, and
``other_agents.py`` of its program, github.com/hongzimao/deeprm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.deeprm.observation import Cluster

Actions = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: A knob at which packing settles ties between jobs of similar length. The two scores differ by
#: a factor of about 100: from 0.1 on the combined rule is all but Packer.
COMBINED_KNOB = 0.01


def shortest_job_first(cluster: Cluster) -> Actions:
    """SJF: the shortest job."""
    return _best(_shortness(cluster), cluster.fits_now())


def packer(cluster: Cluster) -> Actions:
    """The job whose request is best aligned with what is free now; also known as Tetris."""
    return _best(_alignment(cluster), cluster.fits_now())


def combined(cluster: Cluster, knob: float = COMBINED_KNOB) -> Actions:
    """``knob`` times Packer's score plus (1 - ``knob``) times SJF's."""
    scores = knob * _alignment(cluster) + (1 - knob) * _shortness(cluster)
    return _best(scores, cluster.fits_now())


def hold_long_jobs(cluster: Cluster, time: ArrayLike, *, until: int, longest_short: int) -> Actions:
    """SJF that keeps the cluster free for short jobs while new ones still arrive.

    Before time ``until`` a job longer than ``longest_short`` only starts when every slot has such
    a job, as short ones could otherwise never come to the front. The rule knows when arrivals
    end, which the compact observation does not tell: it bounds what holding back is worth rather
    than being a fair opponent.

    Args:
        cluster: n states.
        time: each environment's clock, [n].
        until: the time step from which on no job arrives; ``simu_len``.
        longest_short: the length up to which a job counts as short.
    """
    is_long = cluster.lengths > longest_short
    release = (np.asarray(time) >= until) | is_long.all(axis=1)
    return _best(_shortness(cluster), cluster.fits_now() & (~is_long | release[:, None]))


def random_action(rng: np.random.Generator, n: int, num_slots: int) -> Actions:
    """Uniform over all slots and the void action, also those that cannot be carried out."""
    return rng.integers(num_slots + 1, size=n)


def random_valid(rng: np.random.Generator, allowed: Mask) -> Actions:
    """Uniform over what ``allowed``, bool [n, M + 1], allows."""
    return np.argmax(rng.random(allowed.shape) * allowed, axis=1)


def _shortness(cluster: Cluster) -> NDArray[np.float64]:
    return 1 / np.maximum(cluster.lengths, 1)


def _alignment(cluster: Cluster) -> NDArray[np.float64]:
    return np.einsum("nr,nmr->nm", cluster.free[:, :, 0], cluster.sizes)


def _best(scores: NDArray[np.float64], candidates: Mask) -> Actions:
    scores = np.where(candidates, scores, 0)
    return np.where(np.any(scores > 0, axis=1), scores.argmax(axis=1), scores.shape[1])
