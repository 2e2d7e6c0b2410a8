"""The other side of RLlib's RLlink: the client that RLlib ships as its example, with CartPole."""

from __future__ import annotations

import json
import sys

from farsim.bench.turns import Lines


def main() -> None:
    """Samples with a copy of the policy, and sends episodes, until it is stopped."""
    Lines()
    import torch
    from ray.rllib.examples.envs.classes.utils.dummy_external_client import _dummy_external_client

    torch.set_num_threads(1)
    _dummy_external_client(port=json.loads(sys.argv[1])["port"])


if __name__ == "__main__":
    main()
