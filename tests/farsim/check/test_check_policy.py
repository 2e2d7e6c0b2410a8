"""``farsim check --policy`` as its users see it, on servers that keep their promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agent.live.inference import PolicySpec
from agent.live.limits import Limits
from agent.live.server import PolicyServer, PolicyServerOptions
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.policy.subjects import subjects
from farsim.check.policy.suite import CHECKS
from farsim.check.verdicts import Outcome, Status
from tests.agent.live.linear import Linear
from tests.agent.live_training.test_train_live import address_in, cartpole_file
from tests.farsim.check.test_check import check, words
from tests.servers import ROOT, serving

SEEN = Box(-5.0, 5.0, (4,), np.float32)
TOKEN = "sesame"


def bad(outcomes: list[Outcome]) -> dict[tuple[str, str], str]:
    wrong = (Status.failed, Status.blocked)
    return {(o.simulator, o.check.title): o.verdict for o in outcomes if o.status in wrong}


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    options = PolicyServerOptions(token=TOKEN, limits=Limits(max_session_episodes=8))
    specs = [
        PolicySpec("masked", SEEN, Discrete(3), has_action_mask=True, agents=("walker",)),
        PolicySpec("for anybody", SEEN, Box(-1.0, 1.0, (2,), np.float32), is_recurrent=True),
    ]
    with PolicyServer(Linear(specs, [3, 4]), options=options) as server:
        yield server


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    (tmp_path / "token").write_text(TOKEN)
    return str(tmp_path / "token")


def test_every_sentence_is_in_the_contract():
    contract = words(" ".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto")))
    strange = [c.title for c in CHECKS if words(c.sentence) not in contract]
    assert not strange


def test_every_check_has_a_title_of_its_own():
    assert not [title for title, n in Counter(c.title for c in CHECKS).items() if n > 1]


def test_the_server_passes_and_the_table_and_the_report_say_so(
    server: PolicyServer, token_file: str, tmp_path: Path
):
    file = tmp_path / "check.xml"
    arguments = ["--policy", server.address, "--token-file", token_file, "--junit", str(file)]
    result = check(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"live +│ as Act +│ pass", result.stdout)
    assert re.search(r"act +│ masks +│ not offered .* has_action_mask is false", result.stdout)
    suites = {suite.get("name"): suite for suite in ET.parse(file).getroot()}
    assert set(suites) == {"server", "masked", "for anybody"}
    assert suites["server"].get("skipped") == "0"
    assert all(suite.get("failures") == "0" for suite in suites.values())


def test_one_policy_and_some_checks(server: PolicyServer, token_file: str):
    address = ["--policy", server.address, "--token-file", token_file]
    result = check(*address, "--simulator", "masked", "--only", "resume", "--skip", "*/takes*")
    assert re.search(r"^3 checks: 3 passed; ", result.stdout, re.MULTILINE), result.stdout
    assert check("--policy", server.address).returncode == 2
    result = check(*address, "--simulator", "maskd")
    assert result.returncode == 2 and "did you mean 'masked'?" in result.stderr
    result = check(*address, "--option", "n=1")
    assert result.returncode == 2 and "--option is for simulators" in result.stderr


def test_the_list_is_that_of_policies():
    lines = check("--policy", "--list").stdout.splitlines()
    assert lines[::2] == [c.title for c in CHECKS]


def test_a_server_of_simulators_is_none():
    with serving("adder") as simulators:
        result = check("--policy", simulators.address)
    assert result.returncode == 2, result.stdout


@pytest.mark.slow
def test_a_learner_passes_too(tmp_path: Path):
    command = [sys.executable, "-m", "farsim", "train", "--live", "--live-address", "127.0.0.1:0"]
    command += ["--spaces", str(cartpole_file(tmp_path)), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    printed: list[str] = []
    try:
        found = subjects(address_in(process, printed), ConnectionOptions())
        outcomes = runner.run(found, CHECKS)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(20)
    assert not bad(outcomes), bad(outcomes)
    assert {o.check.title: o.status for o in outcomes}["collect/actions"] is Status.passed


def test_a_server_that_goes_away_fails_and_the_kit_goes_on():
    server = PolicyServer(Linear())
    server.start()
    found = subjects(server.address, ConnectionOptions())
    server.close()
    outcomes = runner.run(found, CHECKS)
    assert len(outcomes) == len(CHECKS)
    told = {o.check.title: o for o in outcomes}
    assert told["session/is granted"].status is Status.failed
    assert "UNAVAILABLE" in told["session/is granted"].verdict
