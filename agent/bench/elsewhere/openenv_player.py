"""OpenEnv's own client, as one side of ``farsim bench``.

Runs where OpenEnv is installed, which need not be where Farsim is; of Farsim it needs
``turns.py`` alone, on the path::

    python openenv_player.py '{"address": "127.0.0.1:8000", "envs": 32}'
"""

from __future__ import annotations

import json
import random
import sys

from turns import Lines, Stride, take_turns  # type: ignore[import-not-found]

#: float32 [4], int64, float64 and two flags, as the arrays of other clients have them.
PAYLOAD_BYTES = 34


def main() -> None:
    """Plays; see ``farsim.bench.turns``."""
    lines = Lines()
    from openenv.core.generic_client import GenericEnvClient  # type: ignore[import-not-found]

    request = json.loads(sys.argv[1])
    envs = request["envs"]
    chosen = [[random.randrange(2) for _ in range(envs)] for _ in range(64)]
    turn = over = 0
    with GenericEnvClient(base_url=f"http://{request['address']}").sync() as env:
        env.reset(seed=0)

        def stride() -> Stride:
            nonlocal turn, over
            turn += 1
            seen = env.step({"push": chosen[turn % len(chosen)]}).observation
            steps = envs - over
            over = sum(seen["terminated"]) + sum(seen["truncated"])
            return Stride(steps, envs * PAYLOAD_BYTES)

        take_turns(lines, stride)


if __name__ == "__main__":
    main()
