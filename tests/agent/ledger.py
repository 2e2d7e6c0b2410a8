"""Checks every transition that RLlib receives from ``IntegritySimulator``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.simulators.integrity import length, next_chain, reward


@dataclass
class Seen:
    """What is known of an episode from its chunks so far.

    Attributes:
        key: lineage, environment and episode, as its observations say.
        steps: how many.
        chain: the last observation's.
        end: "", "terminated" or "cut".
    """

    key: tuple[int, int, int]
    steps: int
    chain: int
    end: str = ""


class Ledger:
    """Books every chunk of every episode once, in the order in which it was sampled."""

    def __init__(self) -> None:
        self.steps = 0
        self.episodes: dict[str, Seen] = {}

    def book(self, chunks: Iterable[Any]) -> None:
        """Books what one call of ``sample`` returned.

        An episode that ended comes after its earlier chunks, which were in earlier samples.
        """
        for chunk in chunks:
            self._book(chunk)

    def _book(self, chunk: Any) -> None:
        observations = np.asarray(chunk.get_observations()).astype(np.int64)
        actions = np.asarray(chunk.get_actions()).astype(np.int64)
        rewards = np.asarray(chunk.get_rewards())
        lineage, env, episode, step, chain = observations.T
        assert len(actions) == len(rewards) == len(observations) - 1 == len(chunk) > 0
        key = (int(lineage[0]), int(env[0]), int(episode[0]))

        # All rows are of one episode of one environment, and of consecutive steps, ...
        assert (observations[:, :3] == key).all(), observations
        assert (np.diff(step) == 1).all(), step
        # ... and the rewards and what follows are those of the actions taken.
        np.testing.assert_array_equal(rewards, reward(chain[:-1], actions))
        np.testing.assert_array_equal(chain[1:], next_chain(chain[:-1], actions))

        seen = self.episodes.get(chunk.id_)
        if seen is None:
            assert step[0] == 0, f"the first chunk of {key} begins at step {step[0]}"
            seen = self.episodes[chunk.id_] = Seen(key, 0, int(chain[0]))
        # Each chunk goes on exactly where the one before it stopped.
        assert not seen.end, f"{key} goes on after it was {seen.end}"
        assert (seen.key, seen.steps, seen.chain) == (key, step[0], chain[0])
        seen.steps, seen.chain = int(step[-1]), int(chain[-1])
        self.steps += len(chunk)

        at_end = seen.steps == length(*key)
        assert chunk.is_terminated == at_end, f"{key} at step {seen.steps} of {length(*key)}"
        if chunk.is_terminated:
            assert not chunk.is_truncated
            seen.end = "terminated"
        elif chunk.is_truncated:
            # The simulator truncates nothing: only a fault does, which the episode names.
            assert chunk.custom_data["fault"]
            seen.end = "cut"

    def settle(self, ongoing: Iterable[str], cut_episodes: int, faults: int) -> None:
        """Checks the books at the end.

        Args:
            ongoing: the ids of episodes that have not ended.
            cut_episodes: the metric ``episodes_cut_by_fault``.
            faults: the metric ``faults``.
        """
        ongoing = set(ongoing)
        keys = [seen.key for seen in self.episodes.values()]
        assert len(keys) == len(set(keys)), "an episode came twice, under two ids"
        # An episode that failed right after a sample has its last step in that sample's chunk,
        # which RLlib takes as one that goes on. All others have a proper end.
        silent = [
            seen for id_, seen in self.episodes.items() if not seen.end and id_ not in ongoing
        ]
        cut = sum(seen.end == "cut" for seen in self.episodes.values())
        assert cut + len(silent) == cut_episodes, (cut, len(silent), cut_episodes)
        # Episodes that never came are those that failed before their first step.
        numbers = defaultdict(set)
        for lineage, env, episode in keys:
            numbers[lineage, env].add(episode)
        missing = sum(max(found) + 1 - len(found) for found in numbers.values())
        assert missing + cut_episodes <= faults, (missing, cut_episodes, faults)
