"""A game of several agents, also in a process of its own: ``python -m ...live_training.game``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from farsim import LiveClient
from farsim.live import Group
from tests.agent.live_training.cartpole import ROOT

SEEKER = Group(
    Box(-10, 10, (3,), np.float32), Box(-2, 2, (2,), np.float32), ("seeker", "second"), "seekers"
)
HIDER = Group(
    Dict({"place": Discrete(9), "hidden": Box(0, 1, (), np.float32)}),
    Discrete(4, start=1),
    ("hider",),
    "hiders",
)


def policy_of(agent: str, episode: Any = None, **_: Any) -> str:
    return "hide" if agent == "hider" else "seek"


@dataclass
class Recording:
    """For each agent, what it saw, did and earned, and how it ended."""

    seen: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    done: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    earned: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    terminated: dict[str, bool] = field(default_factory=dict)


class Game(Recording):
    """A simulator that keeps what happens."""

    def __init__(self, client: LiveClient, seed: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)
        self._episode = client.episode()
        self._waiting: dict[str, float] = defaultdict(float)

    def play(self, rounds: int) -> None:
        """Turns, then all at once; the agents end one after the other."""
        for number in range(rounds):
            # One looks while the other's action has its effect: the reward waits for its turn.
            self.move(["seeker"] if number % 2 else ["hider"], paid=["seeker", "hider"])
        self.move(["seeker", "second", "hider"])
        self.move(["seeker", "second"], paid=["hider", "seeker"])
        self.move(["seeker", "second", "hider"], ends={"hider": True})
        for _ in range(3):
            self.move(["second", "seeker"])
        self.move(["second"], ends={"second": False})
        self.move(["seeker"])
        self.close("seeker")

    def move(
        self, agents: list[str], paid: list[str] | None = None, ends: dict[str, bool] | None = None
    ) -> None:
        ends = ends or {}
        observations = {agent: self.look(agent) for agent in agents}
        rewards = self.pay(paid or agents, agents)
        actions = self._episode.observe(
            observations,
            rewards=rewards,
            terminateds={agent: True for agent, flag in ends.items() if flag},
            truncateds={agent: True for agent, flag in ends.items() if not flag},
        )
        self.terminated |= ends
        assert set(actions) == set(agents) - set(ends)
        for agent, action in actions.items():
            self.done[agent].append(action)

    def close(self, agent: str) -> None:
        rewards = self.pay([agent], [agent])
        self._episode.end({agent: self.look(agent)}, rewards=rewards, terminateds={agent: True})
        self.terminated[agent] = True

    def look(self, agent: str) -> Any:
        if agent == "hider":
            seen: Any = {
                "place": np.int64(self._rng.integers(9)),
                "hidden": np.float32(self._rng.random()),
            }
        else:
            seen = self._rng.uniform(-10, 10, 3).astype(np.float32)
        self.seen[agent].append(seen)
        return seen

    def pay(self, agents: list[str], named: list[str]) -> dict[str, float]:
        rewards = {agent: float(self._rng.integers(-5, 5)) for agent in agents if self.done[agent]}
        for agent, value in rewards.items():
            self._waiting[agent] += value
        for agent in named:
            if self.done[agent]:
                self.earned[agent].append(self._waiting.pop(agent, 0.0))
        return rewards


def play(address: str, games: int, record: Path) -> None:
    """Plays until it is killed; writes what happened in the first games to ``record``."""
    with LiveClient(address, mode="collect") as client:
        played = []
        for seed in range(games):
            played.append(Game(client, seed))
            played[-1].play(rounds=4 + seed)
        # Numbers keep all their digits in JSON.
        text = json.dumps([vars_of(game) for game in played], default=lambda one: one.tolist())
        unfinished = record.with_suffix(".part")
        unfinished.write_text(text)
        unfinished.rename(record)
        seed = games
        while True:
            Game(client, seed).play(rounds=4)
            seed += 1


def vars_of(game: Game) -> dict[str, Any]:
    return {name: getattr(game, name) for name in ("seen", "done", "earned", "terminated")}


@contextmanager
def playing(address: str, games: int, record: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that plays, and is killed in the end."""
    module = "tests.agent.live_training.game"
    command = [sys.executable, "-m", module, address, str(games), str(record)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("games", type=int)
    parser.add_argument("record", type=Path)
    arguments = parser.parse_args()
    play(arguments.address, arguments.games, arguments.record)
