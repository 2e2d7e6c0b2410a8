"""An RLlib env runner with a policy: Farsim's, or RLlib's own with environments in process.

The policy is PPO's: an MLP of 64×64, or RLlib's own convolutions where observations are images.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from agent.bench.players.request import Request, payload
from farsim.bench.turns import Lines, Stride, take_turns

#: PPO's usual fragment; less where that takes longer than a turn.
_FRAGMENT_STEPS = 4000


def main() -> None:
    """Plays; see ``farsim.bench.turns``. The second argument is whose runner."""
    lines = Lines()
    import torch

    torch.set_num_threads(1)
    request = Request.of_command_line()
    whose = sys.argv[2]
    runner = _rllibs(request) if whose == "rllib" else _ours(request, whose == "numpy")
    size = _step_bytes(runner)
    speed = _warm_up(runner, request)
    fragment = min(_FRAGMENT_STEPS, max(request.envs, int(speed * request.seconds)))

    def stride() -> Stride:
        steps = _count(runner.sample(num_timesteps=fragment))
        runner.get_metrics()
        return Stride(steps, steps * size, 0.0)

    take_turns(lines, stride, fragment=fragment)
    runner.stop()


def _warm_up(runner: Any, request: Request) -> float:
    """Samples until it is as fast as it gets; steps a second."""
    steps = request.envs * 4
    while True:
        begun = time.perf_counter()
        done = _count(runner.sample(num_timesteps=steps))
        runner.get_metrics()
        seconds = time.perf_counter() - begun
        # The very first sample also makes what is made once.
        if seconds >= request.seconds / 4 and steps > request.envs * 4:
            return done / seconds
        steps *= 2


def _ours(request: Request, in_numpy: bool) -> Any:
    where: dict[str, Any] = {
        "addresses": list(request.addresses),
        "simulator": request.simulator,
        "connection": request.connection,
    }
    config = _ppo(request).environment("remote", env_config=where, disable_env_checking=True)
    if request.simulator.startswith("particle/"):
        from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner

        return RemoteMultiAgentEnvRunner(config=config)
    from agent.env_runner import RemoteEnvRunner

    if in_numpy:
        config.environment(env_config={**where, "inference": "numpy"})
    return RemoteEnvRunner(config=config.env_runners(env_runner_cls=RemoteEnvRunner))


def _rllibs(request: Request) -> Any:
    kind, _, name = request.simulator.partition("/")
    config = _ppo(request)
    if kind == "particle":
        from mpe2 import simple_spread_v3  # type: ignore[import-untyped]
        from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
        from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
        from ray.tune.registry import register_env

        register_env("mpe2", lambda _: ParallelPettingZooEnv(simple_spread_v3.parallel_env()))
        config = config.environment("mpe2", disable_env_checking=True)
        return MultiAgentEnvRunner(config=config)
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    if kind == "gymnasium-vector":
        config = config.env_runners(gym_env_vectorize_mode="vector_entry_point")
    if kind.startswith("gymnasium"):
        config = config.environment(name)
    else:
        # Gymnasium loads the module; the simulators are no part of this package.
        made_of = {"simulator": request.simulator, "options": request.options}
        config = config.environment("simserver.bench.single:farsim/Single-v0", env_config=made_of)
    return SingleAgentEnvRunner(config=config)


def _ppo(request: Request) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig

    config = (
        PPOConfig()
        .env_runners(num_env_runners=0, num_envs_per_env_runner=request.envs)
        .debugging(log_level="ERROR", seed=1)
    )
    if request.simulator.startswith("particle/"):
        config = config.multi_agent(
            policies={"shared"}, policy_mapping_fn=lambda agent, episode, **_: "shared"
        )
    if request.options.get("image"):
        return config
    return config.rl_module(model_config={"fcnet_hiddens": [64, 64]})


def _count(episodes: list[Any]) -> int:
    """Environment steps."""
    return sum(
        len(episode) if not hasattr(episode, "env_steps") else episode.env_steps()
        for episode in episodes
    )


def _step_bytes(runner: Any) -> int:
    """Of the arrays of one environment's step, by the runner's spaces."""
    from ray.rllib.env import INPUT_ENV_SINGLE_SPACES

    spaces = runner.get_spaces()
    singles = [
        space
        for name, (space, _) in spaces.items()
        if name != INPUT_ENV_SINGLE_SPACES and name != "__env__"
    ]
    if len(singles) != 1:
        raise ValueError(f"one policy is expected here, not {sorted(spaces)}")
    agents = 1
    inside = spaces.get(INPUT_ENV_SINGLE_SPACES, (None, None))[0]
    if hasattr(inside, "spaces") and not hasattr(singles[0], "spaces"):
        agents = len(inside.spaces)
    seen = singles[0].sample()
    return agents * payload(1, seen)


if __name__ == "__main__":
    main()
