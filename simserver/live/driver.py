"""A simulator's own loop: it sees, asks, acts, and keeps its pace."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farsim.live import Episode, LiveClient
from simserver.catalogue import Entry
from simserver.live.rival import Rival, Score, clock
from simserver.live.world import Moment, World

#: How many of the last waiting times the percentiles are of.
_TIMES_KEPT = 100_000


@dataclass
class Progress:
    """One episode, as it goes.

    Attributes:
        number: of the episode, from 1.
        seed: of its world.
        own: how it goes.
        rival: how the rule did; None if it is not asked.
        clock: the simulator's time.
        fallbacks: actions that were the fallback's.
        version: of the policy.
        outcome: how it ended; empty while it runs.
    """

    number: int
    seed: int
    own: Score = field(default_factory=Score)
    rival: Score | None = None
    clock: int = 0
    fallbacks: int = 0
    version: int = 0
    outcome: str = ""


class Times:
    """How long answers took; any thread may add."""

    def __init__(self) -> None:
        self.count = 0
        self._began = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=_TIMES_KEPT)
        self._lock = threading.Lock()

    def add(self, seconds: float, actions: int) -> None:
        with self._lock:
            self.count += actions
            self._seconds.append(seconds)

    def percentiles(self) -> tuple[float, float]:
        """The median and the 99th percentile, in seconds; NaN before there is any."""
        with self._lock:
            kept = list(self._seconds)
        if not kept:
            return float("nan"), float("nan")
        median, high = np.percentile(kept, (50, 99))
        return float(median), float(high)

    def rate(self) -> float:
        """Actions a second since the beginning."""
        return self.count / max(1e-9, time.monotonic() - self._began)


class Driver:
    """Runs episodes of one simulator on a client, each world in a thread that calls ``run``.

    Args:
        client: where actions come from; its mode is ``mode``.
        entry: the simulator.
        options: values of its parameters.
        mode: "shadow" acts at random, of what is allowed, and tells the server.
        pace: steps a second of each world; 0 for as fast as it can.
        compares: whether the rival plays each episode as well.
    """

    def __init__(
        self,
        client: LiveClient,
        entry: Entry,
        options: Mapping[str, Any],
        mode: str = "serve",
        pace: float = 0.0,
        compares: bool = True,
    ) -> None:
        self.times = Times()
        self.episodes: list[Progress] = []
        self._client = client
        self._entry = entry
        self._options = options
        self._is_shadow = mode == "shadow"
        self._interval = 1 / pace if pace else 0.0
        self._compares = compares
        self._stop = threading.Event()

    def stop(self) -> None:
        """Every episode ends after the step that it is in, as truncated."""
        self._stop.set()

    def run(self, seeds: Iterator[tuple[int, int]]) -> None:
        """Plays an episode for each of ``seeds``, numbers and seeds that threads may share."""
        world = World(self._entry, self._options)
        rival = Rival(self._entry, self._options) if self._compares else None
        try:
            while not self._stop.is_set():
                drawn = next(seeds, None)
                if drawn is None:
                    return
                progress = Progress(*drawn)
                if rival is not None:
                    progress.rival = rival.play(progress.seed)
                self.episodes.append(progress)
                with self._client.episode() as episode:
                    self._play(world, episode, progress)
        finally:
            world.close()
            if rival is not None:
                rival.close()

    def _play(self, world: World, episode: Episode, progress: Progress) -> None:
        rng = np.random.default_rng(progress.seed % 2**64)
        moment = world.reset(progress.seed)
        due = time.monotonic()
        gone: set[str] = set()
        while True:
            if moment.fault is not None:
                progress.outcome = f"failed: {moment.fault}"
                episode.abort()
                return
            if len(gone | moment.ended) == len(world.agents):
                _end(world, episode, moment, gone)
                progress.outcome = "terminated" if moment.terminated else "truncated"
                return
            if self._stop.is_set():
                progress.outcome = "stopped"
                return
            actions = self._decide(world, episode, moment, gone, rng)
            gone |= moment.ended
            due += self._interval
            if self._interval and due > time.monotonic():
                self._stop.wait(due - time.monotonic())
            else:
                due = time.monotonic()
            moment = world.step(actions)
            progress.own.note(moment)
            progress.clock = clock(moment, progress.own.steps)
            progress.fallbacks, progress.version = episode.fallbacks, episode.policy_version

    def _decide(
        self,
        world: World,
        episode: Episode,
        moment: Moment,
        gone: set[str],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        seen = {a: value for a, value in moment.observations.items() if a not in gone}
        acting = [agent for agent in seen if agent not in moment.ended]
        began = time.monotonic()
        if len(world.agents) == 1:
            ((agent, value),) = seen.items()
            reward, mask = moment.rewards.get(agent, 0.0), self._masks(moment, seen).get(agent)
            if self._is_shadow:
                actions = world.sample(moment, rng)
                episode.log_action(value, actions[agent], reward, mask)
            else:
                actions = {agent: episode.observe(value, reward, mask)}
        else:
            told = _told(moment, seen) | {"action_mask": self._masks(moment, seen)}
            if self._is_shadow:
                sampled = world.sample(moment, rng)
                actions = {agent: sampled[agent] for agent in acting}
                episode.log_action(seen, actions, **told)
            else:
                actions = episode.observe(seen, **told)
        self.times.add(time.monotonic() - began, len(acting))
        return actions

    def _masks(self, moment: Moment, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Of those whose policies take them."""
        roles = self._client.interface
        return {
            agent: moment.masks[agent]
            for agent in seen
            if agent in moment.masks and roles.role(agent).has_action_mask
        }


def _told(moment: Moment, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What goes with the observations of several agents."""
    return {
        "rewards": {agent: moment.rewards.get(agent, 0.0) for agent in seen},
        "terminateds": {agent: agent in moment.terminated for agent in seen},
        "truncateds": {agent: agent in moment.truncated for agent in seen},
    }


def _end(world: World, episode: Episode, moment: Moment, gone: set[str]) -> None:
    seen = {agent: value for agent, value in moment.observations.items() if agent not in gone}
    if len(world.agents) > 1:
        episode.end(seen, **_told(moment, seen))
        return
    ((agent, value),) = seen.items()
    episode.end(
        value,
        moment.rewards.get(agent, 0.0),
        terminated=agent in moment.terminated,
        truncated=agent in moment.truncated,
    )
