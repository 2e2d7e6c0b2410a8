"""Runs that step remote environments and take live simulators at the same time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agent.description import Group
from agent.live.live_config import LiveConfig
from agent.training.interface import Interface
from agent.training.live import check_same
from agent.training.mixed_env_runner import MixedConfig, MixedEnvRunner
from agent.training.records import read_progress
from farsim.errors import InvalidOption, SpaceMismatch, UnknownOption
from tests.agent.live_training.runners import configured
from tests.agent.live_training.test_train_live import address_in
from tests.agent.training.command import Workplace, workplace
from tests.servers import Serving, serving


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("mixed")) as place:
        yield place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulator", "loss"),
    [
        ("gymnasium/CartPole-v1", "learner/total_loss"),
        ("particle/simple_tag", "learner/adversaries/total_loss"),
    ],
)
def test_a_run_is_fed_by_both(place: Workplace, simulator: str, loss: str) -> None:
    out = place.folder / simulator.replace("/", "-")
    printed: list[str] = []
    with serving(simulator) as server:
        process = place.start(
            *("train", simulator, "--algo", "PPO", "--sims", server.address),
            *("--config", place.quick, "--env-runners", 2, "--stop-steps", 4000, "--out", out),
            *("--live", "--live-address", "127.0.0.1:0", "--live-runners", 1),
        )
        live = None
        try:
            address = address_in(process, printed, "simulators find their actions at")
            live = place.start(
                *("live", simulator, "--policy", address, "--mode", "collect"),
                *("--episodes", 0, "--no-compare"),
            )
            rest, _ = process.communicate(timeout=200)
        finally:
            process.kill()
            if live is not None:
                live.kill()
                live.communicate()
    assert process.returncode == 0, "".join(printed) + rest
    place.check_clean()
    assert f"at {server.address} and from live simulators" in "".join(printed)
    last = read_progress(out / "progress.csv")[-1]
    told = {kind: int(float(last[f"info/{kind}/steps"])) for kind in ("live", "remote")}
    assert told["live"] > 0 < told["remote"]
    assert sum(told.values()) == int(last["steps"])
    for kind in told:
        assert float(last[f"info/{kind}/episodes"]) > 0
        assert np.isfinite(float(last[f"info/{kind}/return"]))
    assert float(last[loss]) != 0
    assert json.loads((out / "run.json").read_text())["servers"] == [server.address, address]


def mixed(config: Any, addresses: list[str], runners: int = 2) -> Any:
    """``config`` of live simulators, with remote ones beside them."""
    config.env_config = {"live": config.env_config, "remote": {"addresses": addresses}}
    return config.env_runners(env_runner_cls=MixedEnvRunner, num_env_runners=runners)


def runner(config: Any, number: int) -> Any:
    workers = config.num_env_runners
    return MixedEnvRunner(config=config, worker_index=number, num_workers=workers, spaces=None)


def test_the_last_ones_are_live(shared_server: Serving) -> None:
    remote = {"addresses": shared_server.addresses, "simulator": "gymnasium/CartPole-v1"}
    space = gym.make("CartPole-v1").observation_space
    config = mixed(configured(observation_space=space), [])
    config.env_config = {**config.env_config, "remote": remote}
    first, second = runner(config, 1), runner(config, 2)
    try:
        assert not hasattr(first, "live_address")
        assert second.live_address
        # RLlib's own asks for no sample; it only keeps the networks.
        assert runner(config, 0).env is None
        # Nobody is there, and nobody is waited for.
        assert second.sample() == []
        assert sum(len(episode) for episode in first.sample(num_timesteps=10)) == 10
        told = first.get_metrics()["info"]["remote"]["steps"].peek()
        assert told == 10
        assert second.get_metrics()["info"]["live"]["steps"].peek() == 0
    finally:
        first.stop()
        second.stop()


def test_other_spaces_are_an_error_before_training(shared_server: Serving) -> None:
    config = mixed(configured(), shared_server.addresses)
    config.env_config["remote"]["simulator"] = "adder"
    with pytest.raises(SpaceMismatch, match="other observations than the networks"):
        runner(config, 1)


def test_what_a_file_says_of_live_ones_has_to_be_so_of_the_remote_ones() -> None:
    def interface(space: Any, agent: str = "a", has_mask: bool = False) -> Interface:
        group = Group("all", (agent,), Box(-1, 1, (2,), np.float32), space, has_mask)
        return Interface("sim", {}, (group,))

    here = interface(Discrete(2))
    check_same(here, interface(Discrete(2)))
    with pytest.raises(SpaceMismatch, match=r"'a': action_space .*2.* here, .*3.* there"):
        check_same(here, interface(Discrete(3)))
    with pytest.raises(SpaceMismatch, match=r"'b' is only there.*'a' is only here"):
        check_same(here, interface(Discrete(2), "b"))
    with pytest.raises(SpaceMismatch, match="action masks only there"):
        check_same(here, interface(Discrete(2), has_mask=True))


def test_wrong_configurations() -> None:
    with pytest.raises(InvalidOption, match="at least 2 env runners"):
        runner(mixed(configured(), ["a:1"], runners=1), 1)
    with pytest.raises(UnknownOption, match="did you mean 'remote'"):
        MixedConfig.of({"remot": {}})
    with pytest.raises(InvalidOption, match="remote"):
        MixedConfig.of({"live": {}})


def test_the_first_live_one_has_the_first_port() -> None:
    config = LiveConfig.of({"address": "a:50061", "first_runner": 3})
    assert [config.address_of(index, 4, False) for index in (3, 4)] == ["a:50061", "a:50062"]
