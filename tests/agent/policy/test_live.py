"""``farsim live`` on what ``farsim policy`` serves: real checkpoints, real processes."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.evaluation.arena import Arena
from agent.evaluation.learned import LearnedPolicy
from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.learned import LearnedGroup
from agent.evaluation.multi_agent.policy import LineUp
from agent.evaluation.multi_agent.rollout import play
from agent.live.server import PolicyServer
from agent.policy import loading
from agent.policy.inference import CheckpointInference
from agent.training import checkpoint as checkpoints
from agent.training.interface import Simulators
from tests.agent.policy.test_serve import serving as policy_serving
from tests.agent.policy.trained import DEEPRM, TAG
from tests.farsim.live.policies import wait_for
from tests.servers import ROOT, serving
from tests.simserver.live.test_live import ENVIRONMENT, command

SEED = 30
EPISODES = 3
SIZE = [f"--option={name}={value}" for name, value in DEEPRM.items()]


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a server in this process."""
    inference = CheckpointInference(loading.load(loading.find(run)))
    with PolicyServer(inference) as server:
        yield server.address


def live(simulator: str, address: str, *arguments: str, code: int = 0) -> str:
    """What ``farsim live`` printed."""
    more = ["--episodes", str(EPISODES), "--seed", str(SEED), "--no-compare", *arguments]
    found = subprocess.run(
        command(simulator, "--policy", address, *more),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert found.returncode == code, found.stdout
    return found.stdout


def printed(name: str, output: str) -> list[float]:
    """A figure of each episode, in the order of their seeds."""
    found = re.findall(rf"\(seed (\d+)\): .*?{name} (-?[\d.]+)", output)
    assert [int(seed) for seed, _ in found] == list(range(SEED, SEED + EPISODES)), output
    return [float(value) for _, value in found]


def test_a_team_earns_what_evaluation_says(trained):
    with served(trained / "maddpg") as address:
        output = live(TAG, address)
    checkpoint = checkpoints.find(trained / "maddpg")
    with serving(TAG) as server:
        arena = TeamArena(Simulators([server.address], TAG, {}))
        with arena.open(EPISODES) as env:
            learned = [LearnedGroup(checkpoint, group, greedy=True, seed=0) for group in env.groups]
            episodes = play(env, LineUp("", learned), range(SEED, SEED + EPISODES))
    np.testing.assert_allclose(printed("return", output), episodes.returns, atol=0.006)


def test_deeprm_is_scheduled_as_evaluation_says(trained):
    with served(trained / "deeprm") as address:
        output = live("deeprm", address, *SIZE)
        refused = live("deeprm", address, *SIZE, "--option", "action_mask=none", code=1)
    policy = LearnedPolicy(checkpoints.find(trained / "deeprm"), greedy=True, seed=0)
    with serving("deeprm") as server:
        arena = Arena([server.address], "deeprm", DEEPRM)
        seeds = list(range(SEED, SEED + EPISODES))
        episodes = arena.play([policy], seeds, action_mask=True)[policy.name]
    np.testing.assert_allclose(printed("return", output), episodes.returns, atol=0.006)
    np.testing.assert_allclose(printed("slowdown", output), episodes.infos["slowdown"], atol=0.006)
    # What was trained to be told what is allowed does not run without.
    assert "with action masks here, without there" in refused and "Traceback" not in refused


@pytest.mark.parametrize("mode", ["serve", "shadow"])
def test_a_policy_without_masks_plays_a_simulator_with_them(trained, mode):
    with served(trained / "deeprm-unmasked") as address:
        # Who has learned nothing may never be done with all jobs.
        output = live("deeprm", address, *SIZE, "--option=end=no_new_job", "--mode", mode)
    assert "the policy takes no action masks: those of agents are left out" in output
    assert len(printed("return", output)) == EPISODES


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(trained, tmp_path):
    """The fallback plays on, and the policy takes over again."""
    run, shown = trained / "maddpg", tmp_path / "shown"
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    past = 0

    def ended(with_fallback: bool) -> bool:
        """Whether an episode with or without the fallback has ended since ``past``."""
        lines = shown.read_text().splitlines()[past:]
        found = ["fallback" in line for line in lines if line.endswith(", truncated")]
        return with_fallback in found

    arguments = ["--episodes", "0", "--option", "max_cycles=8", "--pace", "100", "--no-compare"]
    arguments += ["--fallback", "zero", "--deadline", "0.3"]
    with policy_serving(folders[0], run) as server, shown.open("wb") as file:
        address = server.addresses[0]
        process = subprocess.Popen(
            command(TAG, "--policy", address, *arguments),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: ended(with_fallback=False), "an episode of the policy's")
            server.process.kill()
            server.process.wait(20)
            past = len(shown.read_text().splitlines())
            wait_for(lambda: ended(with_fallback=True), "an episode of the fallback's")
            with policy_serving(folders[1], run, address=address):
                past = len(shown.read_text().splitlines())
                wait_for(lambda: ended(with_fallback=False), "an episode of the policy's again")
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 130, shown.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)
    assert "Traceback" not in shown.read_text()
