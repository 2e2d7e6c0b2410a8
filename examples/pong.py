"""Atari's Pong, many games at once, as RLlib's convolutions want it: the last four frames last.

    pip install ale-py
    farsim serve examples.pong:Pong
    farsim train examples.pong:Pong --sims localhost:50051 --num-envs 16

ALE steps its games in C++, in threads of its own, and gives frames of 84×84 gray pixels, each a
byte; the head makes of them the floats that networks see. On a CPU, learning from a batch of them
takes minutes.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers.vector import TransformObservation

gym.register_envs(importlib.import_module("ale_py"))


def Pong(num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Pong with rewards for points, -1 or 1, until one side has 21."""
    games = gym.make_vec("ALE/Pong-v5", num_envs, gym.VectorizeMode.VECTOR_ENTRY_POINT)
    stack, height, width = games.single_observation_space.shape or ()
    single = Box(0, 255, (height, width, stack), np.uint8)
    batched = Box(0, 255, (num_envs, height, width, stack), np.uint8)
    return TransformObservation(games, _frames_last, batched, single)


def _frames_last(frames: np.ndarray) -> np.ndarray:
    """Bytes [games, 84, 84, 4] of bytes [games, 4, 84, 84]."""
    return np.moveaxis(frames, 1, -1)
