"""Learners that hear from the first simulator what there is to be learned."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agent.live.greeted import read_greeted, write_greeted
from agent.live.greeting import GreetingServer
from agent.live.server import PolicyServerOptions
from agent.training.records import read_progress
from farsim import LiveClient
from farsim.errors import InvalidArgument, SpaceMismatch, UnknownPolicy
from farsim.live import Group
from farsim.v1 import policy_pb2 as pb
from tests.agent.live_training.runners import CHOICE, SEEN, all_of, configured, runner_of
from tests.agent.live_training.test_train_live import address_in
from tests.agent.training.command import Workplace, workplace

FIRST = "waiting for the first simulator at"


@pytest.fixture
def greeter() -> Iterator[GreetingServer]:
    options = PolicyServerOptions(modes=(pb.LIVE_MODE_COLLECT,))
    with GreetingServer("127.0.0.1:0", options) as server:
        yield server


def client_of(server: GreetingServer, seen: Any = SEEN, does: Any = CHOICE) -> LiveClient:
    return LiveClient(server.address, "collect", observation_space=seen, action_space=does)


def test_the_first_simulator_gets_its_actions_from_who_has_learned_its_spaces(
    greeter: GreetingServer, tmp_path: Path
) -> None:
    assert not greeter.wait(0.0)
    seen: list[Any] = [np.full(4, number, np.float32) for number in range(4)]
    done: list[Any] = []
    with client_of(greeter) as client:
        assert greeter.wait(0.0)
        (group,) = greeter.groups
        assert (group.agents, group.observation_space, group.action_space) == (
            ("agent",),
            SEEN,
            CHOICE,
        )
        episode = client.episode()

        def live() -> None:
            for observation in seen[:-1]:
                done.append(episode.observe(observation, 1.0 if done else 0.0))
            episode.end(seen[-1], 1.0, terminated=True)

        thread = threading.Thread(target=live)
        thread.start()
        with client_of(greeter):
            assert len(greeter.greeted) == 2
        greeter.close(0.0)
        path = tmp_path / "greeted"
        write_greeted(path, greeter.greeted)
        assert path.stat().st_mode & 0o077 == 0
        config = configured(address=greeter.address, greeted=str(path))
        with runner_of(config) as runner:
            (chunk,) = [one for one in all_of(runner, episodes=1, steps=3) if len(one)]
            thread.join(20)
            np.testing.assert_array_equal(chunk.get_observations(), seen)
            np.testing.assert_array_equal(chunk.get_actions(), done)
            np.testing.assert_array_equal(chunk.get_rewards(), [1, 1, 1])


def test_later_ones_are_told_where_they_differ(greeter: GreetingServer) -> None:
    with client_of(greeter):
        with pytest.raises(SpaceMismatch, match=r"shape \(4,\) here, \(5,\) there"):
            client_of(greeter, Box(-np.inf, np.inf, (5,), np.float32))
        with pytest.raises(SpaceMismatch, match="action_space"):
            client_of(greeter, does=Discrete(3))
        stranger = Group(SEEN, CHOICE, ("stranger",))
        with pytest.raises(UnknownPolicy, match=r"'stranger' is not among .*'agent'"):
            LiveClient(greeter.address, "collect", groups=[stranger])
        with client_of(greeter):
            pass


def test_the_first_one_has_to_say_what_it_sees(greeter: GreetingServer) -> None:
    with pytest.raises(InvalidArgument, match="serves no policy"):
        LiveClient(greeter.address, "collect")
    assert not greeter.wait(0.0)


def test_sessions_of_another_machine_are_not_there(tmp_path: Path) -> None:
    assert read_greeted("") == read_greeted(str(tmp_path / "elsewhere")) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("greeting")) as place:
        yield place


@pytest.mark.slow
def test_a_run_that_knows_nothing_of_its_simulators(place: Workplace) -> None:
    out = place.folder / "nameless"
    process = place.start(
        *("train", "--live", "--live-address", "127.0.0.1:0", "--config", place.quick),
        *("--stop-steps", 800, "--out", out),
    )
    printed: list[str] = []
    live = None
    try:
        address = address_in(process, printed, FIRST)
        live = place.start(
            *("live", "gymnasium/CartPole-v1", "--policy", address, "--mode", "collect"),
            # Its first action has to wait for the networks.
            *("--episodes", 0, "--no-compare", "--deadline", 150),
        )
        rest, _ = process.communicate(timeout=200)
        if live.poll() is None:
            os.killpg(live.pid, signal.SIGINT)
        lived, _ = live.communicate(timeout=60)
    finally:
        process.kill()
        if live is not None:
            live.kill()
    assert process.returncode == 0, "".join(printed) + rest
    assert "the first simulator has agent: sees Box" in rest
    # Its first episode, which began before there was a policy, went on.
    assert "episode 1 (seed 0): " in lived
    assert int(read_progress(out / "progress.csv")[-1]["steps"]) >= 800
    place.check_clean()


@pytest.mark.slow
def test_the_wait_for_the_first_one_ends_with_the_time_or_with_ctrl_c(place: Workplace) -> None:
    command = ("train", "--live", "--live-address", "127.0.0.1:0", "--out", place.folder / "none")
    output = place.here(*command, "--stop-time", 1)
    assert "1 s have passed, and no simulator has come" in output
    process = place.start(*command)
    printed: list[str] = []
    try:
        address_in(process, printed, FIRST)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, "".join(printed) + rest
    place.check_clean()
