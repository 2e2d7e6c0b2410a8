"""Job sequences: generated, from NumPy's legacy generator, or checked as a client gave them.

A batch of sequences is a pair of arrays, int64 ``lengths`` [k, simu_len] (0: no arrival at that
time step) and ``sizes`` [k, simu_len, num_res].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import FloatArray, IntArray

#: Chance that a job is a short one (SPEC section 2).
SHORT_CHANCE = 0.8


def draws_needed(settings: Settings) -> int:
    """Uniform numbers that one generated sequence takes."""
    return settings.simu_len * (4 + settings.num_res)


def generate(
    settings: Settings, uniform: FloatArray, rates: FloatArray
) -> tuple[IntArray, IntArray]:
    """Sequences of the original's two-mode distribution (SPEC section 2).

    A job is short with chance 0.8, and asks much of one resource, drawn evenly, and little of the
    others. Where the original's ranges would be empty they hold the number 1.

    Args:
        settings: of the simulator.
        uniform: float64 [k, draws_needed], in [0, 1).
        rates: float64 [k], the chance of an arrival in a time step.

    Returns:
        lengths int64 [k, simu_len], sizes int64 [k, simu_len, num_res]
    """
    longest, widest, resources = settings.max_job_len, settings.max_job_size, settings.num_res
    draws = uniform.reshape(len(uniform), settings.simu_len, 4 + resources)
    arrives = draws[:, :, 0] < rates[:, None]
    short = draws[:, :, 1] < SHORT_CHANCE
    low = np.where(short, 1, max(1, 2 * longest // 3))
    high = np.where(short, max(1, longest // 5), longest)
    lengths = _between(low, high, draws[:, :, 2]) * arrives

    dominant = (draws[:, :, 3] * resources).astype(np.int64)
    dominates = dominant[:, :, None] == np.arange(resources)
    low = np.where(dominates, max(1, widest // 2), 1)
    high = np.where(dominates, widest, max(1, widest // 5))
    sizes = _between(low, high, draws[:, :, 4:]) * arrives[:, :, None]
    return lengths, sizes


def legacy_sequences(
    settings: Settings, rate: float
) -> tuple[IntArray, IntArray, np.random.RandomState]:
    """The ``num_ex`` sequences that the original draws after ``numpy.random.seed(seq_seed)``.

    Returns:
        lengths int64 [num_ex, simu_len], sizes int64 [num_ex, simu_len, num_res], and the
        generator as they leave it; the original shuffles its colours with it.
    """
    random = np.random.RandomState(settings.seq_seed)
    longest, widest, resources = settings.max_job_len, settings.max_job_size, settings.num_res
    steps = settings.num_ex * settings.simu_len
    lengths = np.zeros(steps, np.int64)
    sizes = np.zeros((steps, resources), np.int64)
    for step in range(steps):
        if random.rand() >= rate:
            continue
        if random.rand() < SHORT_CHANCE:
            lengths[step] = random.randint(1, longest // 5 + 1)
        else:
            lengths[step] = random.randint(2 * longest // 3, longest + 1)
        dominant = random.randint(0, resources)
        for resource in range(resources):
            if resource == dominant:
                sizes[step, resource] = random.randint(widest // 2, widest + 1)
            else:
                sizes[step, resource] = random.randint(1, widest // 5 + 1)
    shape = (settings.num_ex, settings.simu_len)
    return lengths.reshape(shape), sizes.reshape(*shape, resources), random


def given_sequence(
    settings: Settings, lengths: NDArray[np.integer], sizes: NDArray[np.integer]
) -> tuple[IntArray, IntArray]:
    """A client's sequence, padded with time steps without an arrival.

    Args:
        settings: of the simulator.
        lengths: [n], n at most simu_len.
        sizes: [n * num_res], one time step after another.

    Returns:
        lengths int64 [simu_len], sizes int64 [simu_len, num_res]

    Raises:
        ValueError: the sequence does not fit the settings.
    """
    steps, resources = len(lengths), settings.num_res
    if steps > settings.simu_len:
        raise ValueError(
            f"job_lengths has {steps} time steps and simu_len is {settings.simu_len}: shorten the "
            "sequence or raise simu_len"
        )
    if len(sizes) != steps * resources:
        raise ValueError(
            f"job_sizes has {len(sizes)} numbers; {steps} job_lengths with num_res {resources} "
            f"need {steps * resources}"
        )
    padded_lengths = np.zeros(settings.simu_len, np.int64)
    padded_lengths[:steps] = lengths
    padded_sizes = np.zeros((settings.simu_len, resources), np.int64)
    padded_sizes[:steps] = np.reshape(sizes, (steps, resources))
    padded_sizes[padded_lengths == 0] = 0
    if padded_lengths.max() > settings.max_job_len:
        raise ValueError(
            f"job_lengths has a job of {padded_lengths.max()} time steps and max_job_len is "
            f"{settings.max_job_len}: shorten the job or raise max_job_len"
        )
    if padded_sizes.max() > settings.max_job_size:
        raise ValueError(
            f"job_sizes asks for {padded_sizes.max()} and max_job_size is "
            f"{settings.max_job_size}: ask for less or raise max_job_size"
        )
    if padded_lengths.min() < 0 or padded_sizes.min() < 0:
        raise ValueError("job_lengths and job_sizes must not be negative")
    return padded_lengths, padded_sizes


def _between(low: IntArray, high: IntArray, uniform: FloatArray) -> IntArray:
    """Integers from low to high, inclusive."""
    return low + (uniform * (high - low + 1)).astype(np.int64)
