"""A simulator without a wire: the plain loop, in one process, for ``farsim bench``."""

from __future__ import annotations

import numpy as np

from farsim.bench.turns import Lines, Stride, take_turns
from simserver.bench.request import Request


def main() -> None:
    """Plays; see ``farsim.bench.turns``."""
    lines = Lines()
    (batch,) = Request.of_command_line().batches()
    agents = batch.rows // batch.num_envs
    actions = np.random.default_rng(0).integers(batch.actions, size=(64, batch.rows))
    seen = sum(array.nbytes for array in batch.reset(0))
    payload = seen + actions[0].nbytes + batch.rows * 10
    over = turn = 0

    def stride() -> Stride:
        nonlocal over, turn
        turn += 1
        _, terminated, truncated, *_ = batch.step(actions[turn % len(actions)])
        steps = batch.num_envs - over
        over = int(np.count_nonzero(terminated | truncated)) // agents
        return Stride(steps, payload)

    take_turns(lines, stride)
    batch.close()


if __name__ == "__main__":
    main()
