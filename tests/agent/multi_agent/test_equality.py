"""Episodes of several agents cut out of arrays against those of RLlib's own loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from agent.env_runner import seeds_of
from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner
from tests.agent.sampling.test_equality import assert_same
from tests.servers import Serving, serving
from tests.simulators.walk import Walk

WALK = "tests.simulators.walk:Walk"
ENVS = 3


class Name(str):
    """The name of an agent. RLlib keeps them in sets, which have an order with these hashes."""

    __slots__ = ()

    def __hash__(self) -> int:
        return Walk.possible_agents.index(str(self))


def named(values: Mapping[str, Any]) -> dict[Any, Any]:
    return {Name(agent): value for agent, value in values.items()}


class InProcess(MultiAgentEnv):
    """The environment as RLlib knows such."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._walk = Walk(**config["options"])
        self.possible_agents = [Name(agent) for agent in Walk.possible_agents]
        self.agents = list(self.possible_agents)
        self.observation_spaces = {a: self._walk.observation_space(a) for a in self.agents}
        self.action_spaces = {a: self._walk.action_space(a) for a in self.agents}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observations, infos = self._walk.reset(seed)
        self.agents = [Name(a) for a in self._walk.agents]
        return named(observations), named(infos)

    def step(self, actions: Any) -> Any:
        *parts, terminated, truncated, infos = self._walk.step(
            {str(a): v for a, v in actions.items()}
        )
        over = not self._walk.agents
        self.agents = [Name(a) for a in self._walk.agents]
        stopped = any(truncated.values())
        terminated, truncated = named(terminated), named(truncated)
        terminated["__all__"], truncated["__all__"] = over and not stopped, over and stopped
        return *map(named, parts), terminated, truncated, named(infos)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(WALK) as running:
        yield running


def config(server: Serving, **options: Any) -> Any:
    place = {"addresses": server.address, "simulator": WALK, "options": options}
    return (
        PPOConfig()
        .environment(InProcess, env_config=place, disable_env_checking=True)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=ENVS,
            rollout_fragment_length=5,
        )
        .multi_agent(
            policies={"walker", "guide"},
            policy_mapping_fn=lambda agent, episode, **_: str(agent).split("_")[0],
        )
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=3)
    )


def samples(kind: type[MultiAgentEnvRunner], config: Any, calls: list[dict[str, Any]]) -> Any:
    runner: Any = kind(config=config, worker_index=1, num_workers=1)
    runner._seed = seeds_of(runner, 1)
    try:
        weights = np.random.default_rng(7)
        state = runner.module.get_state()
        runner.module.set_state(
            {
                name: tree.map_structure(
                    lambda leaf: weights.normal(0.0, 0.5, leaf.shape).astype(np.float32),
                    state[name],
                )
                for name in sorted(state)
            }
        )
        found = []
        for number, call in enumerate(calls):
            torch.manual_seed(number)
            runner._weights_seq_no = number
            found.append((runner.sample(**call), runner.get_metrics()))
        return found
    finally:
        runner.stop()


#: What differs from run to run, whoever makes the episodes.
_NOT_COMPARED = {
    "id_",
    "multi_agent_episode_id",
    "_start_time",
    "_last_step_time",
    "agent_to_module_mapping_fn",
}
#: What RLlib besides keeps of agents of which a chunk has nothing.
_BY_AGENT = ("agent_t_started", "env_t_to_agent_t", "_agent_to_module_mapping")
_HANGING = ("_hanging_rewards_end", "_hanging_rewards_begin")


def fields(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {str(k): fields(v) for k, v in state.items() if k not in _NOT_COMPARED}
    if hasattr(state, "get_state"):
        return fields(state.get_state())
    if isinstance(state, (list, tuple)):
        return [fields(part) for part in state]
    return bool(state) if isinstance(state, np.bool_) else state


def fields_of(episode: MultiAgentEpisode) -> dict[str, Any]:
    found: dict[str, Any] = fields(episode)
    found["agent_episodes"] = {str(agent): part for agent, part in found["agent_episodes"]}
    for name in _BY_AGENT:
        found[name] = {a: v for a, v in found[name].items() if a in found["agent_episodes"]}
    for name in _HANGING:
        found[name] = {a: v for a, v in found[name].items() if v}
    return found


def without_both(theirs: dict[str, Any], found: dict[str, Any]) -> None:
    """Where RLlib says both that an agent was terminated and truncated, takes what was found.

    It makes a termination of the end of all agents, whatever it was; see ``test_env_runner.py``.
    """
    pairs = [(theirs, found)] + [
        (part, found["agent_episodes"][agent]) for agent, part in theirs["agent_episodes"].items()
    ]
    for one, other in pairs:
        if one["is_terminated"] and one["is_truncated"]:
            assert other["is_terminated"] != other["is_truncated"]
            one["is_terminated"], one["is_truncated"] = (
                other["is_terminated"],
                other["is_truncated"],
            )


METRICS = (
    "episode_return_mean",
    "episode_len_mean",
    "num_env_steps_sampled",
    "num_episodes",
    "agent_episode_returns_mean",
    "module_episode_returns_mean",
    "agent_steps",
)
CALLS: list[dict[str, Any]] = [
    *({"num_timesteps": ENVS * steps, "explore": True} for steps in (4, 9, 17, 1)),
    {"num_timesteps": ENVS * 20, "explore": False},
]


@pytest.mark.parametrize("horizon", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"late": True}, {"stopped": True}], ids=str)
def test_episodes_are_those_of_rllib(server: Serving, options: Any, horizon: int) -> None:
    made = config(server, **options).env_runners(episode_lookback_horizon=horizon)
    stock, ours = (
        samples(kind, made, CALLS) for kind in (MultiAgentEnvRunner, RemoteMultiAgentEnvRunner)
    )
    left = 0
    for number, ((theirs, their_metrics), (found, metrics)) in enumerate(
        zip(stock, ours, strict=True)
    ):
        assert len(found) == len(theirs)
        for place, (one, other) in enumerate(zip(found, theirs, strict=True)):
            one.validate()
            left += sum(part.is_done for part in one.agent_episodes.values()) * (not one.is_done)
            found_fields, their_fields = fields_of(one), fields_of(other)
            without_both(their_fields, found_fields)
            assert_same(found_fields, their_fields, f"call {number}, episode {place}: ")
        for name in set(METRICS) & set(their_metrics):
            assert_close(their_metrics[name], metrics[name], name)
    assert left > 5


def assert_close(one: Any, other: Any, name: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_close(one[key], other[key], f"{name}/{key}")
    else:  # Sums in another order; and nothing is 0 for us, and no number for RLlib.
        values = np.nan_to_num([one.peek(), other.peek()])
        np.testing.assert_allclose(*values, 1e-9, err_msg=name)
