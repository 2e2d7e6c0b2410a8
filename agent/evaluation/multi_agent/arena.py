"""Where line-ups play: the same episodes, on servers, for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from agent.evaluation.multi_agent.policy import LineUp
from agent.evaluation.multi_agent.rollout import TeamEpisodes, TeamObserver, play
from agent.remote_multi_agent_vector_env import RemoteMultiAgentVectorEnv
from agent.training.interface import Simulators

#: More environments than this at once are of little use and much memory.
_MOST_ENVS = 256


@dataclass(frozen=True)
class TeamArena:
    """Environments of one simulator with several agents.

    Attributes:
        simulators: where they are.
    """

    simulators: Simulators

    @contextlib.contextmanager
    def open(self, num_envs: int, render: bool = False) -> Iterator[RemoteMultiAgentVectorEnv]:
        """Environments, for a while.

        Args:
            num_envs: how many.
            render: whether they will be rendered.
        """
        with RemoteMultiAgentVectorEnv(
            list(self.simulators.addresses),
            self.simulators.simulator,
            num_envs=num_envs,
            options=self.simulators.options,
            # The end of an episode is to be seen.
            autoreset_mode=AutoresetMode.NEXT_STEP,
            render_mode="rgb_array" if render else None,
            connection=dict(self.simulators.connection),
        ) as env:
            yield env

    def play(
        self,
        line_ups: Sequence[LineUp],
        seeds: Sequence[int],
        *,
        observers: Callable[[LineUp], Sequence[TeamObserver]] = lambda line_up: (),
        ticked: Callable[[LineUp, int], None] = lambda line_up, ended: None,
    ) -> list[TeamEpisodes]:
        """Lets each line-up play one episode for each seed; the results in their order.

        Args:
            line_ups: who plays.
            seeds: of the episodes.
            observers: who watches a line-up's episodes.
            ticked: is called after each step, with how many episodes ended in it.
        """
        results: list[list[TeamEpisodes]] = [[] for _ in line_ups]
        watching = [observers(line_up) for line_up in line_ups]
        # Alike in size: messages can only be shuffled among several environments.
        waves = np.array_split(np.array(seeds, np.int64), -(-len(seeds) // _MOST_ENVS))
        for wave in waves:
            with self.open(len(wave)) as env:
                for number, line_up in enumerate(line_ups):

                    def tick(ended: int, line_up: LineUp = line_up) -> None:
                        ticked(line_up, ended)

                    episodes = play(env, line_up, wave.tolist(), watching[number], tick)
                    results[number].append(episodes)
        return [TeamEpisodes.join(parts) for parts in results]
