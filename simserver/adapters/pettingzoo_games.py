"""One PettingZoo environment, of either kind, as the adapter plays it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Agent: TypeAlias = Hashable


@dataclass(frozen=True)
class Told:
    """What one agent is told after a reset or a step."""

    observation: Any
    info: Mapping[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class ParallelGame:
    """A ``ParallelEnv``, whose agents all act at once.

    Args:
        env: the environment, which this object closes.

    Attributes:
        going: the agents whose episode goes on.
        acting: those that are to act in the next step.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.going: set[Agent] = set()
        self.acting: set[Agent] = set()
        self._ended: set[Agent] = set()

    def reset(self, seed: int | None, options: Mapping[str, Any] | None) -> dict[Agent, Told]:
        """Starts an episode; what the agents that take part from its start are told."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = set()
        told = {
            agent: Told(observation, infos.get(agent, {}))
            for agent, observation in observations.items()
        }
        self.going = self.acting = set(told)
        return told

    def step(self, actions: Mapping[Agent, Any]) -> dict[Agent, Told]:
        """Takes the actions of all ``acting``; what agents are told whose episode went on or began.

        An agent that is neither in the result nor in ``going`` has left without a word.
        """
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        there = set(self.env.agents)
        told = {}
        for agent, observation in observations.items():
            if agent in self._ended:
                continue
            terminated = bool(terminations.get(agent, False))
            truncated = bool(truncations.get(agent, False))
            # An agent that is no longer there without having ended was stopped from outside.
            truncated = truncated or not (terminated or agent in there)
            told[agent] = Told(
                observation,
                infos.get(agent, {}),
                float(rewards.get(agent, 0.0)),
                terminated,
                truncated,
            )
        self._ended |= {agent for agent, seen in told.items() if seen.ended}
        self.going = there - self._ended
        self.acting = self.going & told.keys()
        return told


class AECGame:
    """An ``AECEnv``, whose agents take turns: each step is one agent's, all are told of it.

    The rewards are those of each step (``AECEnv.rewards``), not the sums since an agent's turn.
    The empty steps that PettingZoo asks for agents that have ended are taken here.

    Args:
        env: the environment, which this object closes.

    Attributes:
        going: the agents whose episode goes on.
        acting: the one whose turn it is, if any is left.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.going: set[Agent] = set()
        self.acting: set[Agent] = set()
        self._ended: set[Agent] = set()

    def reset(self, seed: int | None, options: Mapping[str, Any] | None) -> dict[Agent, Told]:
        """As ``ParallelGame.reset``."""
        self.env.reset(seed=seed, options=options)
        self._ended = set()
        return self._go_on({})

    def step(self, actions: Mapping[Agent, Any]) -> dict[Agent, Told]:
        """As ``ParallelGame.step``."""
        env = self.env
        env.step(actions[env.agent_selection])
        rewards = dict(env.rewards)  # The empty steps of ended agents clear them.
        told = {agent: self._tell(agent, rewards) for agent in self._newly_ended()}
        self._ended |= told.keys()
        return told | self._go_on(rewards)

    def _newly_ended(self) -> list[Agent]:
        env = self.env
        return [
            agent
            for agent in env.agents
            if agent not in self._ended and (env.terminations[agent] or env.truncations[agent])
        ]

    def _go_on(self, rewards: Mapping[Agent, float]) -> dict[Agent, Told]:
        """Sees ended agents off, and tells the others, now that it is known whose turn it is."""
        env = self.env
        for _ in range(len(env.agents) + 1):
            if not env.agents or not self._over(env.agent_selection):
                break
            env.step(None)
        else:
            raise RuntimeError("agents that have ended do not leave when stepped with None")
        self.going = {agent for agent in env.agents if not self._over(agent)}
        self.acting = {env.agent_selection} if self.going else set()
        return {agent: self._tell(agent, rewards) for agent in env.agents if agent in self.going}

    def _over(self, agent: Agent) -> bool:
        return bool(self.env.terminations[agent] or self.env.truncations[agent])

    def _tell(self, agent: Agent, rewards: Mapping[Agent, float]) -> Told:
        env = self.env
        return Told(
            env.observe(agent),
            env.infos.get(agent, {}),
            float(rewards.get(agent, 0.0)),
            bool(env.terminations[agent]),
            bool(env.truncations[agent]),
        )


Game: TypeAlias = ParallelGame | AECGame
