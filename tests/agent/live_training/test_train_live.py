"""``farsim train --live`` as users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from google.protobuf import json_format

from agent.training import checkpoint as checkpoints
from agent.training.live import InvalidSpaces, read_groups, request_of
from agent.training.records import read_progress
from farsim import spaces
from farsim.errors import InvalidArgument
from farsim.v1 import simulator_pb2
from tests.agent.live_training.cartpole import playing
from tests.agent.training.command import Workplace, workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("live")) as place:
        yield place


def cartpole_file(folder: Path, agents: tuple[str, ...] = ()) -> Path:
    env = gym.make("CartPole-v1")
    group = simulator_pb2.Group(
        name="poles",
        agents=agents,
        observation_space=spaces.to_proto(env.observation_space),
        action_space=spaces.to_proto(env.action_space),
    )
    path = folder / f"spaces{len(agents)}.json"
    path.write_text(json.dumps([json_format.MessageToDict(group)]))
    return path


def address_in(
    process: subprocess.Popen[str], printed: list[str], words: str = "waiting for simulators at"
) -> str:
    """Where a command that runs waits for simulators."""
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line)
        found = re.search(rf"{words} (\S+)", line)
        if found:
            return found[1].rstrip(",")
    raise AssertionError("".join(printed))


@pytest.mark.slow
def test_a_run_is_fed_by_simulators_alone(place: Workplace) -> None:
    out = place.folder / "fed"
    process = place.start(
        *("train", "gymnasium/CartPole-v1", "--live", "--live-address", "127.0.0.1:0"),
        *("--config", place.quick, "--stop-steps", 1000, "--out", out),
    )
    printed: list[str] = []
    try:
        address = address_in(process, printed)
        with playing(address, seeds=(0, 1000)):
            rest, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, "".join(printed) + rest
    assert "PPO on gymnasium/CartPole-v1 from live simulators" in "".join(printed)
    place.check_clean()
    last = read_progress(out / "progress.csv")[-1]
    assert float(last["info/live/simulators"]) == 2
    assert 0 <= float(last["info/live/staleness"]) <= 1
    assert json.loads((out / "run.json").read_text())["servers"] == [address]
    assert checkpoints.find(out).manifest.simulator == "gymnasium/CartPole-v1"


@pytest.mark.slow
@pytest.mark.parametrize("env_runners", [pytest.param(0, marks=pytest.mark.long), 1])
def test_one_ctrl_c_while_nobody_is_there(place: Workplace, env_runners: int) -> None:
    process = place.start(
        *("train", "--live", "--live-address", "127.0.0.1:0", "--env-runners", env_runners),
        *("--spaces", cartpole_file(place.folder), "--out", place.folder / f"alone{env_runners}"),
    )
    printed: list[str] = []
    try:
        address_in(process, printed)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "stopping after this iteration" in rest
    assert process.returncode == 128 + signal.SIGINT, "".join(printed) + rest
    assert "interrupted after" in rest
    place.check_clean()


@pytest.mark.slow
@pytest.mark.parametrize("env_runners", [0, pytest.param(1, marks=pytest.mark.long)])
def test_the_time_is_up_while_nobody_is_there(place: Workplace, env_runners: int) -> None:
    output = place.here(
        *("train", "--live", "--live-address", "127.0.0.1:0", "--env-runners", env_runners),
        *("--spaces", cartpole_file(place.folder), "--out", place.folder / f"late{env_runners}"),
        *("--stop-time", 2),
    )
    assert "s have passed" in output
    assert "nothing was saved: no iteration was finished" in output


def test_spaces_from_a_file(tmp_path: Path) -> None:
    (group,) = read_groups(cartpole_file(tmp_path))
    assert group.agents == ("agent",)
    assert group.action_space == gym.spaces.Discrete(2)
    assert read_groups(cartpole_file(tmp_path, ("a", "b")))[0].agents == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[]", "list of groups"), ('[{"agent": 1}]', "group 0: .*agent")],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spaces.json"
    path.write_text(text)
    with pytest.raises(InvalidSpaces, match=message):
        read_groups(path)


def test_tls_options_are_the_services_own() -> None:
    request = request_of("a:1", None, 2, {"tls_cert": "c", "tls_key": "k", "tls_ca": "a"}, False)
    assert request.listen == {"tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"}
    with pytest.raises(InvalidArgument, match="go together"):
        request_of("a:1", None, None, {"tls_cert": "c"}, False)
