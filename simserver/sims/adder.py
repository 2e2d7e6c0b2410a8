"""Adder: move a number to 50. The smallest simulator that has something to learn."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)

TARGET = 50
EPISODE_STEPS = 10
LARGEST_ADDEND = 10
LOWEST_INITIAL, HIGHEST_INITIAL = 0, 100

_REACH = EPISODE_STEPS * LARGEST_ADDEND
# Value, step, the value at the start and the range it was drawn from; then the random stream:
# PCG64's state and increment, 128 bits each, and the half of a 64-bit number that it may have left.
_STATE = struct.Struct("<2q 3q 16s 16s 2I")


class Adder(BatchSimulator):
    """An integer starts somewhere in 0..100; each action adds -10..10 to it; 50 is the target.

    This is the tutorial problem of Bonsai's training engine, known there as "Plato's hello world".

    - Observation: ``{"value": int64 []}``, the number now, in -100..200.
    - Action: ``{"addend": int64 []}``, in -10..10.
    - Reward: ``-|value - 50|``, after the addition.
    - Episode: ten steps, whatever the value, so the target has to be held as well as reached. The
      tenth is a truncation: the observation does not tell how many steps are left, so the end is
      a time limit from outside, and the value of the last state should be bootstrapped. Nothing
      ever terminates.

    The best return from a start 10 n away from the target, n = 0..5, is ``-5 n (n - 1)``.
    """

    description = "Plato's hello world: move a number to 50 in ten steps"
    parameters = (
        Parameter(
            "initial_value",
            Box(LOWEST_INITIAL, HIGHEST_INITIAL, (2,), np.int64),
            np.array([LOWEST_INITIAL, HIGHEST_INITIAL]),
            "the lowest and the highest value that an episode may start at",
            per_episode=True,
        ),
    )
    can_save_state = True
    max_episode_steps = EPISODE_STEPS

    def __init__(self, num_envs: int, *, initial_value: IntArray) -> None:
        _check_range(initial_value)
        self.groups = (
            Group(
                Dict(
                    value=Box(LOWEST_INITIAL - _REACH, HIGHEST_INITIAL + _REACH, (), np.int64),
                ),
                Dict(addend=Discrete(2 * LARGEST_ADDEND + 1, start=-LARGEST_ADDEND)),
            ),
        )
        self._range = np.tile(np.asarray(initial_value, np.int64), (num_envs, 1))
        self._initial = self._range[:, 0].copy()
        self._value = self._initial.copy()
        self._step = np.zeros(num_envs, np.int64)
        self._random = [
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence().spawn(num_envs)
        ]

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        if "initial_value" in options:
            initial_range = np.asarray(options["initial_value"], np.int64)
            _check_range(initial_range)
            self._range[envs] = initial_range
        if seeds is not None:
            for env, seed in zip(envs.tolist(), seeds, strict=True):
                # SeedSequence takes no negative number; seeds are signed 64-bit ones.
                self._random[env] = np.random.Generator(np.random.PCG64(seed % 2**64))
        self._initial[envs] = [
            self._random[env].integers(low, high, endpoint=True)
            for env, (low, high) in zip(envs.tolist(), self._range[envs].tolist(), strict=True)
        ]
        self._value[envs] = self._initial[envs]
        self._step[envs] = 0
        return self._start(envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        self._value[envs] += actions[0]["addend"]
        self._step[envs] += 1
        value = self._value[envs]
        return Batch(
            [
                GroupBatch(
                    {"value": value},
                    reward=-np.abs(value - TARGET).astype(np.float64),
                    terminated=np.zeros(len(envs), np.bool_),
                    truncated=self._step[envs] >= EPISODE_STEPS,
                )
            ]
        )

    def save_state(self, envs: IntArray) -> list[bytes]:
        return [
            _STATE.pack(
                int(self._value[env]),
                int(self._step[env]),
                int(self._initial[env]),
                *self._range[env].tolist(),
                *_pack_stream(self._random[env]),
            )
            for env in envs.tolist()
        ]

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        loaded = [_unpack(state) for state in states]  # All, before any is put in place.
        for env, (numbers, random) in zip(envs.tolist(), loaded, strict=True):
            self._value[env], self._step[env], self._initial[env] = numbers[:3]
            self._range[env] = numbers[3:]
            self._random[env] = random
        return self._start(envs)

    def _start(self, envs: IntArray) -> Batch:
        """``initial_value`` tells what was drawn: giving it to a reset starts there again."""
        initial = self._initial[envs]
        return Batch(
            [GroupBatch({"value": self._value[envs]})],
            started=envs,
            episode_options={"initial_value": np.stack([initial, initial], axis=1)},
        )


def _check_range(initial_range: IntArray) -> None:
    """``initial_range`` is [2] or [rows, 2]."""
    low, high = np.atleast_2d(initial_range).T
    if (low > high).any():
        row = int(np.argmax(low > high))
        raise ValueError(
            f"initial_value: the lowest, {low[row]}, is above the highest, {high[row]}: give "
            "[lowest, highest]"
        )


def _pack_stream(random: np.random.Generator) -> tuple[bytes, bytes, int, int]:
    state: Any = random.bit_generator.state
    return (
        state["state"]["state"].to_bytes(16, "little"),
        state["state"]["inc"].to_bytes(16, "little"),
        state["has_uint32"],
        state["uinteger"],
    )


def _unpack(data: bytes) -> tuple[tuple[int, ...], np.random.Generator]:
    """Value, step, initial value, lowest, highest; and the random stream."""
    if len(data) != _STATE.size:
        raise ValueError(f"not a state of adder: {len(data)} bytes instead of {_STATE.size}")
    value, step, initial, low, high, state, increment, has_half, half = _STATE.unpack(data)
    if not (
        LOWEST_INITIAL <= low <= initial <= high <= HIGHEST_INITIAL
        and 0 <= step <= EPISODE_STEPS
        and abs(value - initial) <= step * LARGEST_ADDEND
        and increment[0] & 1  # PCG64's increment is always odd.
        and has_half <= 1
    ):
        raise ValueError("not a state of adder: the bytes have been changed")
    random = np.random.Generator(np.random.PCG64(0))
    random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {
            "state": int.from_bytes(state, "little"),
            "inc": int.from_bytes(increment, "little"),
        },
        "has_uint32": has_half,
        "uinteger": half,
    }
    return (value, step, initial, low, high), random
