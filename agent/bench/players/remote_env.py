"""Farsim's remote environments, without RLlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space

from agent.bench.players.pipeline import Pipeline
from agent.bench.players.request import Chooser, Count, Request, payload
from agent.remote_multi_agent_vector_env import RemoteMultiAgentVectorEnv
from agent.remote_vector_env import RemoteVectorEnv
from farsim.bench.turns import Lines, Stride, take_turns
from farsim.errors import Unsupported


def main() -> None:
    """Plays; see ``farsim.bench.turns``."""
    lines = Lines()
    request = Request.of_command_line()
    if request.simulator.startswith("particle/"):
        take_turns(lines, _several_agents(request))
    elif request.splits > 1:
        pipeline = _pipelined(request)
        take_turns(lines, pipeline.stride, pipeline.begin, pipeline.finish)
    else:
        take_turns(lines, _one_agent(request))


def _one_agent(request: Request) -> Callable[[], Stride]:
    env = RemoteVectorEnv(
        request.addresses, request.simulator, num_envs=request.envs, connection=request.connection
    )
    size, actions = _look(env)
    chooser, count = Chooser(actions, request.envs), Count(request.envs, request.envs)

    def stride() -> Stride:
        _, _, terminated, truncated, _ = env.step(chooser.choose())
        return Stride(count.steps(terminated, truncated), size)

    return stride


def _pipelined(request: Request) -> Pipeline:
    splits = min(request.splits, request.envs)
    env = RemoteVectorEnv(
        request.addresses,
        request.simulator,
        num_envs=request.envs,
        connection=request.connection,
        splits=splits,
    )
    size, actions = _look(env)
    blocks = [block.stop - block.start for block in env.splits]
    choosers = [Chooser(actions, block) for block in blocks]
    counts = [Count(block, block) for block in blocks]

    def receive(split: int) -> tuple[int, int]:
        _, _, terminated, truncated, _ = env.step_wait(split)
        steps = counts[split].steps(terminated, truncated)
        return steps, size * blocks[split] // request.envs

    return Pipeline(splits, lambda split: env.step_async(choosers[split].choose(), split), receive)


def _look(env: RemoteVectorEnv) -> tuple[int, int]:
    """Bytes of a step of all environments, after their first reset; and how many actions."""
    observation, infos = env.reset(seed=0)
    masks = [infos["action_mask"]] if "action_mask" in infos else []
    return payload(env.num_envs, observation, *masks), _actions(env.single_action_space)


def _actions(space: Space[Any]) -> int:
    if not isinstance(space, Discrete):
        raise Unsupported(f"a comparison needs Discrete actions, not {space}")
    return int(space.n)


def _several_agents(request: Request) -> Callable[[], Stride]:
    env = RemoteMultiAgentVectorEnv(
        request.addresses, request.simulator, num_envs=request.envs, connection=request.connection
    )
    first = env.reset(seed=0)
    rows = [len(group.agents) * request.envs for group in env.groups]
    choosers = [
        Chooser(_actions(group.action_space), count)
        for group, count in zip(env.groups, rows, strict=True)
    ]
    seen = [np.asarray(group.observation) for group in first.groups]
    size = sum(payload(count, array) for count, array in zip(rows, seen, strict=True))

    def step() -> Stride:
        env.step([chooser.choose() for chooser in choosers])
        return Stride(request.envs, size)  # The next episode begins in the step that ends one.

    return step


if __name__ == "__main__":
    main()
