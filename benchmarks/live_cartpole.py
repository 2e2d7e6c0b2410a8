"""PPO on CartPole, fed by live simulators only, beside RLlib's own local run, settings alike.

    python benchmarks/live_cartpole.py [--clients 8] [--target 450] [--json results.json]

Every live client is a process of its own. After a quarter of the steps that the local run took
one of them is killed, and after half of them another one is added.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from agent.live.env_runner import LiveEnvRunner
from agent.training.ray_runtime import quiet

_CLIENT = """
import sys
import gymnasium as gym
from farsim import LiveClient

address, seed = sys.argv[1], int(sys.argv[2])
env = gym.make("CartPole-v1")
with LiveClient(address, mode="collect") as client:
    while True:
        with client.episode() as episode:
            (observation, _), reward, over = env.reset(seed=seed), 0.0, False
            seed += 1
            while not over:
                action = episode.observe(observation, reward)
                observation, reward, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
            episode.end(observation, reward, terminated=terminated, truncated=truncated)
"""


def settings(seed: int) -> Any:
    """What both runs have in common."""
    return (
        PPOConfig()
        .training(
            lr=3e-4,
            gamma=0.99,
            num_epochs=6,
            vf_loss_coeff=0.01,
            train_batch_size_per_learner=2000,
            minibatch_size=128,
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[32], fcnet_activation="linear", vf_share_layers=True
            )
        )
        .debugging(log_level="ERROR", seed=seed)
    )


def learn(
    algorithm: Any, name: str, target: float, limit: int, each: Callable[[int], None]
) -> dict[str, Any]:
    """Trains until the mean return is ``target``, or for ``limit`` steps."""
    began = time.perf_counter()
    curve: list[tuple[int, float]] = []
    info: dict[str, Any] = {}
    while not curve or (curve[-1][1] < target and curve[-1][0] < limit):
        found = algorithm.train()["env_runners"]
        steps = int(found["num_env_steps_sampled_lifetime"])
        curve.append((steps, float(found.get("episode_return_mean", 0.0))))
        info = found.get("info", {}).get("live", {})
        print(f"{name:6} {steps:8,} steps  return {curve[-1][1]:6.1f}", flush=True)
        each(steps)
    return {
        "steps": curve[-1][0],
        "return": curve[-1][1],
        "seconds": round(time.perf_counter() - began, 1),
        "curve": curve,
        "live": {key: float(value) for key, value in info.items() if key != "port"},
    }


def local(arguments: argparse.Namespace) -> dict[str, Any]:
    config = settings(arguments.seed).environment("CartPole-v1")
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=arguments.clients)
    algorithm = config.build_algo()
    try:
        return learn(algorithm, "local", arguments.target, arguments.limit, lambda steps: None)
    finally:
        algorithm.stop()


def live(arguments: argparse.Namespace, kill_at: int, add_at: int) -> dict[str, Any]:
    env = gym.make("CartPole-v1")
    config = settings(arguments.seed).environment(
        "live",
        env_config={"address": "127.0.0.1:0", "limits": {"lease_seconds": 2.0}},
        observation_space=env.observation_space,
        action_space=env.action_space,
        disable_env_checking=True,
    )
    config.env_runners(env_runner_cls=LiveEnvRunner, num_env_runners=0)
    algorithm = config.build_algo()
    clients: list[subprocess.Popen[bytes]] = []

    def add() -> None:
        command = [sys.executable, "-c", _CLIENT, algorithm.env_runner.live_address]
        clients.append(subprocess.Popen([*command, str(1_000_000 * len(clients))]))

    def come_and_go(steps: int) -> None:
        if steps >= kill_at and clients[0].poll() is None:
            clients[0].kill()
            print("live   one client is killed", flush=True)
        if steps >= add_at and len(clients) == arguments.clients:
            add()
            print("live   one client is added", flush=True)

    try:
        for _ in range(arguments.clients):
            add()
        return learn(algorithm, "live", arguments.target, arguments.limit, come_and_go)
    finally:
        for client in clients:
            client.kill()
            client.wait()
        algorithm.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--target", type=float, default=450.0)
    parser.add_argument("--limit", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    quiet()
    try:
        results = {"local": local(arguments)}
        steps = results["local"]["steps"]
        results["live"] = live(arguments, kill_at=steps // 4, add_at=steps // 2)
    finally:
        ray.shutdown()
    for name, result in results.items():
        print(
            f"{name:6} {result['return']:6.1f} after {result['steps']:8,} steps, "
            f"{result['seconds']:6.1f} s  {result['live'] or ''}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
