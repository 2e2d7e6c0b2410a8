"""A live CartPole in a process of its own: ``python -m tests.agent.live_training.cartpole``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym

from farsim import LiveClient

ROOT = Path(__file__).resolve().parents[3]


def play(address: str, seed: int, record: Path | None, actions: int) -> None:
    """Plays until it is killed, or stands still after so many actions.

    Writes what it saw and did to ``record`` before it goes on.
    """
    env = gym.make("CartPole-v1")
    with LiveClient(address, mode="collect") as client:
        while True:
            with client.episode() as episode:
                (observation, _), reward, over = env.reset(seed=seed), 0.0, False
                seed += 1
                while not over:
                    action = episode.observe(observation, reward)
                    if record is not None:
                        with record.open("a") as file:
                            file.write(json.dumps([observation.tolist(), int(action)]) + "\n")
                    actions -= 1
                    if actions == 0:
                        signal.pause()
                    observation, reward, terminated, truncated, _ = env.step(action)
                    over = terminated or truncated
                episode.end(observation, reward, terminated=terminated, truncated=truncated)


@contextmanager
def playing(
    address: str, seeds: Sequence[int] = (0,), record: Path | None = None, actions: int = 0
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process for each seed; they are killed in the end."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for seed in seeds:
            processes.append(start(address, seed, record, actions))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(20)


def start(
    address: str, seed: int, record: Path | None = None, actions: int = 0
) -> subprocess.Popen[bytes]:
    module = "tests.agent.live_training.cartpole"
    command = [sys.executable, "-m", module, address, str(seed), "--actions", str(actions)]
    if record is not None:
        command += ["--record", str(record)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("seed", type=int)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--actions", type=int, default=0)
    arguments = parser.parse_args()
    play(arguments.address, arguments.seed, arguments.record, arguments.actions)
