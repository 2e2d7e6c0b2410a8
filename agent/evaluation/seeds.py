"""Seeds of evaluation episodes, which training never uses."""

from __future__ import annotations

import numpy as np

#: Training seeds its environments from below this number, evaluation from here on; both stay
#: within the signed 64 bits that travel.
FIRST = 2**62


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """One seed for each episode, in ``FIRST`` .. 2**63 - 1; the same seeds for the same ``seed``.

    More episodes have the seeds of fewer, and further ones.
    """
    stream = np.random.SeedSequence(seed % 2**64).generate_state(episodes, np.uint64)
    return [FIRST + int(word) % FIRST for word in stream]
