"""Sums over running episodes and samples, for RLlib's metrics."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import metrics as names

from agent.multi_agent.infos import EpisodeNumbers
from agent.multi_agent.recorder import policy_of
from agent.remote_multi_agent_vector_env import MultiAgentStep
from agent.sampling.columns import BoolArray


class Tally:
    """Counts steps, and sums up rewards and infos of the episodes that run.

    Args:
        groups: of the simulator.
        num_envs: how many environments.
    """

    def __init__(self, groups: Sequence[Any], num_envs: int) -> None:
        self._groups = groups
        rows = [num_envs * len(group.agents) for group in groups]
        self._returns = [np.zeros(count) for count in rows]
        self._agent_steps = [np.zeros(count, np.int64) for count in rows]
        self._began = np.full(num_envs, time.perf_counter())
        self.infos = EpisodeNumbers(rows)

    def begin(self, env: int) -> None:
        """A new episode begins in an environment."""
        self._began[env] = time.perf_counter()
        for number, group in enumerate(self._groups):
            agents = len(group.agents)
            rows = slice(env * agents, (env + 1) * agents)
            self._returns[number][rows] = 0.0
            self._agent_steps[number][rows] = 0
            self.infos.begin(number, rows)

    def add(
        self, step: MultiAgentStep, acting: Sequence[BoolArray], failed: BoolArray
    ) -> list[BoolArray]:
        """Takes in a step.

        Args:
            step: what became of it.
            acting: for each group bool [rows], who acted.
            failed: bool [num_envs]: whose row is no step.

        Returns:
            For each group bool [rows], whose action was one.
        """
        stepped = []
        for number, (group, part, who) in enumerate(
            zip(self._groups, step.groups, acting, strict=True)
        ):
            agents = len(group.agents)
            good = np.repeat(~failed, agents)
            self._returns[number] += np.where(good, part.reward, 0.0)
            stepped.append(who & good)
            self._agent_steps[number] += stepped[-1]
            # What is said where an episode has begun is of its first observation.
            self.infos.add(number, part.infos, good & ~np.repeat(step.started, agents))
            self.infos.add(number, part.final_infos, good)
        return stepped

    def of_episode(self, env: int, episode: MultiAgentEpisode, length: int) -> dict[str, Any]:
        """An environment's episode, as ``MultiAgentEnvRunner._log_episode_metrics`` takes it.

        Besides "infos", by metric.
        """
        agents: dict[str, float] = {}
        modules: dict[str, float] = defaultdict(float)
        steps: dict[str, int] = {}
        for number, group in enumerate(self._groups):
            first = env * len(group.agents)
            for place, agent in enumerate(group.agents):
                agents[agent] = float(self._returns[number][first + place])
                modules[policy_of(episode, agent)] += agents[agent]
                steps[agent] = int(self._agent_steps[number][first + place])
        return {
            "length": length,
            "ret": sum(agents.values()),
            "sec": time.perf_counter() - float(self._began[env]),
            "agents": agents,
            "modules": dict(modules),
            "agent_steps": steps,
            "infos": self.infos.of_episode(env, self._groups),
        }


class StepCounts:
    """Steps of one sample, of environments, agents and policies."""

    def __init__(self) -> None:
        self.envs = 0
        self.agents: Counter[str] = Counter()
        self.policies: Counter[str] = Counter()

    @property
    def agent_steps(self) -> int:
        return sum(self.agents.values())

    def add(
        self,
        groups: Sequence[Any],
        stepped: Sequence[BoolArray],
        policies: Sequence[Mapping[str, int]],
        envs: int,
    ) -> None:
        """Adds a step.

        Args:
            groups: of the simulator.
            stepped: for each group bool [rows], who acted.
            policies: for each group how many actions of each policy there were.
            envs: how many environments stepped.
        """
        self.envs += envs
        for group, who, of_policies in zip(groups, stepped, policies, strict=True):
            counts = who.reshape(-1, len(group.agents)).sum(axis=0)
            self.agents.update(dict(zip(group.agents, counts.tolist(), strict=True)))
            self.policies.update(of_policies)

    def log(self, metrics: Any, episodes: int) -> None:
        """Tells RLlib of a sample, in which so many episodes ended."""
        metrics.log_value(
            names.NUM_ENV_STEPS_SAMPLED_LIFETIME,
            self.envs,
            reduce="lifetime_sum",
            with_throughput=True,
        )
        for name, count in (
            (names.NUM_ENV_STEPS_SAMPLED, self.envs),
            (names.NUM_EPISODES, episodes),
        ):
            metrics.log_value(name, count, reduce="sum")
        metrics.log_value(names.NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")
        for now, ever, counts in (
            (names.NUM_AGENT_STEPS_SAMPLED, names.NUM_AGENT_STEPS_SAMPLED_LIFETIME, self.agents),
            (
                names.NUM_MODULE_STEPS_SAMPLED,
                names.NUM_MODULE_STEPS_SAMPLED_LIFETIME,
                self.policies,
            ),
        ):
            for who, count in counts.items():
                metrics.log_value((now, who), count, reduce="sum")
                metrics.log_value((ever, who), count, reduce="lifetime_sum")
