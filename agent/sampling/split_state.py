"""What a sampler knows of one split of the environments, and what it brings home."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tree
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.numpy import convert_to_numpy

from agent.sampling.columns import BoolArray, IntArray
from agent.sampling.fragment import Fragment


@dataclass(frozen=True)
class Sample:
    """What a call of ``Sampler.sample`` brought.

    Attributes:
        complete: episodes that came to their end.
        chunks: of the episodes that go on.
        cut: episodes that were cut by a fault.
        steps: of environments.
    """

    complete: list[SingleAgentEpisode]
    chunks: list[SingleAgentEpisode]
    cut: list[SingleAgentEpisode]
    steps: int


class SplitState:
    """Where sampling stands in one split of the environments.

    Attributes:
        number: of the split.
        rows: its environments.
        observation: what they show now, as the network takes it.
        state: of a recurrent module; None for any other.
        over: bool [num_envs]: the next step only begins an episode there, or it is absent.
            Replaced, never written to.
        resting: in how many that is so.
    """

    fragment: Fragment
    observation: Any
    state: Any
    resting: int

    def __init__(self, number: int, rows: slice) -> None:
        self.number, self.rows = number, rows
        self.num_envs = rows.stop - rows.start
        self.over = np.zeros(self.num_envs, np.bool_)
        self.faults_in_a_row = np.zeros(self.num_envs, np.int64)
        self._version = 0, np.zeros(self.num_envs, np.int64)

    @property
    def over(self) -> BoolArray:
        return self._over

    @over.setter
    def over(self, rows: BoolArray) -> None:
        self._over, self.resting = rows, int(np.count_nonzero(rows))

    def begin_state(self, module: Any) -> None:
        """Every environment has the first state of ``module``, if that is a recurrent one."""
        self.state = None
        if module is not None and module.is_stateful():
            self._first_state = convert_to_numpy(module.get_initial_state())
            self.state = tree.map_structure(
                lambda leaf: np.repeat(leaf[None], self.num_envs, axis=0), self._first_state
            )

    def forget_state(self, rows: IntArray) -> None:
        """An episode begins in these environments."""
        if self.state is not None and len(rows):

            def forget(leaf: Any, first: Any) -> Any:
                leaf = leaf.copy()
                leaf[rows] = first
                return leaf

            self.state = tree.map_structure(forget, self.state, self._first_state)

    def version(self, number: int) -> Any:
        """int64 [num_envs], the weights that act."""
        if self._version[0] != number:
            self._version = number, np.full(self.num_envs, number)
        return self._version[1]
