"""Small environments with several agents, and what is needed to learn in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from agent.maddpg import MADDPGConfig
from agent.maddpg.learner import MADDPGTorchLearner
from agent.maddpg.replay import JointReplay

OBSERVATION = Box(-np.inf, np.inf, (3,), np.float32)
#: Each kind of action that MADDPG knows.
ACTIONS = {
    "a_0": Discrete(4),
    "a_1": Discrete(4),
    "b_0": Box(-1.0, 3.0, (2,), np.float32),
    "c_0": MultiDiscrete([2, 3]),
}


def one_each(agent: str, *_: Any, **__: Any) -> str:
    return agent


def by_letter(agent: str, *_: Any, **__: Any) -> str:
    return agent[0]


class Diary(MultiAgentEnv):
    """Every observation says which episode and step it is of, and what its agent has just done.

    ``env_config``: ``length`` of an episode; ``end``, how it is reported: "all" truncated,
    "each" agent truncated, or "terminated"; ``leaves``, the step at which ``a_1`` terminates;
    ``turns``, whether ``c_0`` only sees and acts at every other step.
    """

    episodes = 0

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.length = config.get("length", 5)
        self.end = config.get("end", "all")
        self.leaves = config.get("leaves", 0)
        self.turns = config.get("turns", False)
        self.possible_agents = list(ACTIONS)
        self.agents = list(ACTIONS)
        self.observation_space = Dict(dict.fromkeys(ACTIONS, OBSERVATION))
        self.action_space = Dict(ACTIONS)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        Diary.episodes += 1
        self.number, self.step_number = Diary.episodes, 0
        self.agents = list(ACTIONS)
        return {agent: self._page(-1.0) for agent in self.agents}, {}

    def step(self, actions: Any) -> Any:
        self.step_number += 1
        seen = {
            agent: self._page(mark(actions.get(agent, -1.0)))
            for agent in self.agents
            if agent != "c_0" or not self.turns or self.step_number % 2 == 0
        }
        rewards = dict.fromkeys(self.agents, 10.0 * self.step_number)
        ends = self.step_number == self.length
        terminated = {"__all__": ends and self.end == "terminated"}
        truncated = {"__all__": ends and self.end != "terminated"}
        if ends and self.end == "each":
            truncated |= dict.fromkeys(self.agents, True)
        if self.step_number == self.leaves:
            terminated["a_1"] = True
            self.agents.remove("a_1")
        return seen, rewards, terminated, truncated, {}

    def _page(self, did: float) -> np.ndarray[Any, Any]:
        return np.array([self.number, self.step_number, did], np.float32)


def mark(action: Any) -> float:
    """A number that tells actions apart."""
    return float(np.dot(np.ravel(action), [1.0, 7.0][: np.size(action)]))


class Approach(MultiAgentEnv):
    """Two agents on a line, each rewarded for how near both are to their goals.

    ``env_config``: ``action_space``. ``Discrete(3)`` moves left, nowhere or right; a ``Box`` of one
    number says where to, and how far.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.possible_agents = self.agents = ["p", "q"]
        space = config["action_space"]
        self.observation_space = Dict({agent: Box(-9, 9, (1,), np.float32) for agent in "pq"})
        self.action_space = Dict(dict.fromkeys("pq", space))
        self.random = np.random.default_rng(5)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.offset, self.time = self.random.uniform(-1, 1, 2), 0
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        self.time += 1
        discrete = isinstance(self.action_space["p"], Discrete)
        moves = [float(np.ravel(actions[agent])[0]) - discrete for agent in "pq"]
        self.offset = np.clip(self.offset + 0.2 * np.array(moves), -2, 2)
        reward = -float(np.abs(self.offset).sum())
        truncated = {"__all__": self.time == 10}
        return self._seen(), dict.fromkeys("pq", reward), {"__all__": False}, truncated, {}

    def _seen(self) -> dict[str, np.ndarray[Any, Any]]:
        return {
            agent: np.array([offset], np.float32)
            for agent, offset in zip("pq", self.offset, strict=True)
        }


def config_for(
    env: type[MultiAgentEnv],
    mapping: Callable[..., str],
    env_config: dict[str, Any] | None = None,
    **training: Any,
) -> MADDPGConfig:
    """Small networks, an early start, everything in this process."""
    sample = env(env_config or {})
    settings = {
        "train_batch_size_per_learner": 32,
        "num_steps_sampled_before_learning_starts": 40,
        "env_steps_per_update": 10,
        **training,
    }
    config = MADDPGConfig().environment(
        env,
        env_config=env_config or {},
        observation_space=sample.observation_space,
        action_space=sample.action_space,
        disable_env_checking=True,
    )
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=4)
    config.multi_agent(
        policies={mapping(agent) for agent in sample.possible_agents}, policy_mapping_fn=mapping
    )
    config.rl_module(model_config={"fcnet_hiddens": [16]})
    config.reporting(min_sample_timesteps_per_iteration=40, min_time_s_per_iteration=0)
    config.debugging(seed=3, log_level="ERROR")
    config.training(**settings)
    return config


def learner_for(config: MADDPGConfig) -> MADDPGTorchLearner:
    """A learner as the algorithm builds it, without the algorithm."""
    config.validate()
    spaces = (config.observation_space, config.action_space)
    cast = config.cast({INPUT_ENV_SINGLE_SPACES: spaces})
    modules = {name: (role.observation_space, role.action_space) for name, role in cast.items()}
    spec = config.get_multi_rl_module_spec(spaces={INPUT_ENV_SINGLE_SPACES: spaces, **modules})
    learner = MADDPGTorchLearner(config=config, module_spec=spec)
    learner.build()
    return learner


def random_replay(config: MADDPGConfig, rows: int, seed: int = 0) -> JointReplay:
    """Filled with noise: all agents act in all steps, and none terminates."""
    replay = JointReplay(config.cast(), 1000, seed)
    random = np.random.default_rng(seed)
    added = {}
    for name, role in config.cast().items():
        agents = len(role.agents)
        role.action_space.seed(seed)
        drawn = [[role.action_space.sample() for _ in range(agents)] for _ in range(rows)]
        shape = (rows, agents, *role.observation_space.shape)
        added[name] = {
            "obs": random.normal(size=shape).astype(np.float32),
            "new_obs": random.normal(size=shape).astype(np.float32),
            "actions": np.array(drawn),
            "rewards": random.normal(size=(rows, agents)).astype(np.float32),
            "terminateds": np.zeros((rows, agents), np.bool_),
            "valid": np.ones((rows, agents), np.bool_),
        }
    replay.add_rows(added)
    return replay
