"""``farsim live``: simulators that own their loop, as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from simserver import catalogue
from simserver.live.rival import Rival
from simserver.live.world import World
from tests.farsim.live.policies import policies, wait_for
from tests.servers import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "farsim", "live", *arguments]


def live(*arguments: str) -> str:
    found = subprocess.run(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_deeprm_beside_shortest_job_first(tmp_path: Path) -> None:
    size = ["--option", "num_nw=3", "--option", "simu_len=10", "--option", "end=all_done"]
    with policies(tmp_path, "--spaces", "any") as server:
        text = live("deeprm", "--policy", server.address, "--episodes", "2", "--seed", "5", *size)
        events = [event for number in (1, 2) for event in server.episode(number)]
    assert re.search(r"episode 1 \(seed 5\): \d+ steps, return -[\d.]+, SJF -[\d.]+", text), text
    assert re.search(r"2 episodes, return .* SJF .*, slowdown [\d.]+ ± [\d.]+, SJF", text), text
    assert re.search(r"\d+ actions, \d+ a second", text), text
    # What is printed is what the server was told.
    printed = sum(float(x) for x in re.findall(r"steps, return (-[\d.]+)", text))
    rewards = [agent["reward"] for event in events for agent in event.get("agents", ())]
    assert sum(rewards) == pytest.approx(printed, abs=0.02)
    ends = [event for event in events if event["event"] == "end"]
    assert [end["agents"][0]["terminated"] for end in ends] == [True, True]


@pytest.mark.parametrize("mode", ["collect", "shadow"])
def test_particle_has_several_agents(tmp_path: Path, mode: str) -> None:
    arguments = ["--episodes", "4", "--envs", "2", "--mode", mode, "--no-compare"]
    with policies(tmp_path, "--spaces", "any") as server:
        text = live("particle/simple_tag", "--policy", server.address, *arguments)
        told = [event for number in range(1, 5) for event in server.episode(number)]
    assert len(re.findall(r"\d+ steps, return .*, truncated", text)) == 4, text
    agents = Counter(agent["agent"] for event in told for agent in event.get("agents", ()))
    assert len(agents) == 4 and len(set(agents.values())) == 1
    ends = [event for event in told if event["event"] == "end"]
    assert all(agent["truncated"] for end in ends for agent in end["agents"])
    logged = {agent["logged_action"] is not None for e in told[1:2] for agent in e["agents"]}
    assert logged == {mode == "shadow"}


def test_control_c_ends_the_episode(tmp_path: Path) -> None:
    with policies(tmp_path, "--spaces", "any") as server:
        arguments = ["--episodes", "0", "--pace", "20", "--mode", "collect"]
        process = subprocess.Popen(
            command("gymnasium/Pendulum-v1", "--policy", server.address, *arguments),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(lambda: len(server.episode(1)) > 3, "some steps")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 130, output
        wait_for(lambda: server.told[-1]["event"] == "goodbye", "the end")
        assert server.told[-2]["event"] == "end" and not server.told[-2]["aborted"]
    assert "stopped" in output and "Traceback" not in output


def test_mistakes_on_the_command_line() -> None:
    for arguments, expected in (
        (["deeprm", "--policy", "127.0.0.1:9", "--option", "num_nw=0"], "num_nw"),
        (["deeprm", "--policy", "127.0.0.1:9"], "cannot be reached"),
        (["gymnasium-vector/CartPole-v1", "--policy", "127.0.0.1:9"], "gymnasium/<id>"),
    ):
        found = subprocess.run(
            command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=60
        )
        assert found.returncode == 1 and expected in found.stderr, found.stderr
        assert "Traceback" not in found.stderr


def test_the_rival_has_the_same_jobs() -> None:
    entry = catalogue.load(["deeprm"], {})["deeprm"]
    options = {"simu_len": 15, "num_nw": 4, "observation": "image"}
    world, rival = World(entry, options), Rival(entry, options)
    score = rival.play(7)
    moment = world.reset(7)
    void = int(options["num_nw"])
    while not moment.ended:
        # First come, first served.
        allowed = np.flatnonzero(moment.masks["agent"][0]) if moment.masks else [0]
        moment = world.step({"agent": allowed[0] if len(allowed) else void})
    again = rival._world.reset(7)
    columns = [0, 1, 4]  # Number, arrival, length: what no scheduler changes.
    mine = moment.infos["jobs"]
    while not again.ended:
        again = rival._world.step(rival.act(again, np.random.default_rng(0)))
    placed = (mine[:, 0] >= 0) & (again.infos["jobs"][:, 0] >= 0)
    assert placed.sum() >= 3
    assert np.array_equal(mine[placed][:, columns], again.infos["jobs"][placed][:, columns])
    assert score.slowdown == float(again.infos["slowdown"])
    assert score.at(10**6) == score.total


def test_a_terminal_shows_a_table(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    with policies(tmp_path, "--spaces", "any") as server:
        process = subprocess.Popen(
            command("gymnasium/CartPole-v1", "--policy", server.address, "--episodes", "0"),
            cwd=ROOT,
            env={**ENVIRONMENT, "TERM": "xterm-256color"},
            stdout=theirs,
            stderr=subprocess.STDOUT,
        )
        os.close(theirs)
        shown, is_stopped = b"", False
        try:
            while part := os.read(ours, 65536):
                shown += part
                if b"runs" in shown and b"terminated" in shown and not is_stopped:
                    process.send_signal(signal.SIGINT)
                    is_stopped = True
        except OSError:  # How Linux says that the other end is closed.
            pass
        os.close(ours)
        assert process.wait(30) == 130, shown
    text = shown.decode()
    assert "random" in text and "stopped" in text and re.search(r"\d+ episodes, return", text)
    assert len(server.told) > 6
