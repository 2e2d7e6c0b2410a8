"""The head side: remote environments, RLlib env runners, training and evaluation.

Importing this package is light: it brings neither Ray nor Torch. It registers a Gymnasium vector
environment, so that this needs no import at all::

    gymnasium.make_vec("agent:farsim/Remote-v0", num_envs=8, addresses="sim-a:50051")
"""

from gymnasium.envs.registration import register, registry

from farsim import polling

# Before any module of this package loads gRPC.
polling.settle()

REMOTE_ENV_ID = "farsim/Remote-v0"

if REMOTE_ENV_ID not in registry:
    register(REMOTE_ENV_ID, vector_entry_point="agent.remote_vector_env:RemoteVectorEnv")
