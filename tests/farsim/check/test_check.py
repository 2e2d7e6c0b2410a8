"""``farsim check`` as its users see it, on servers that keep their promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

import grpc
import pytest

from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.suite import CHECKS
from farsim.check.verdicts import Status
from farsim.protocol import SERVICE
from tests.servers import ROOT, Serving, serving

COUNCIL = "tests.simulators.council:Council"
EVERYTHING = "tests.simulators.everything:Everything"


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "farsim", "check", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    simulators = ["adder", "deeprm", "particle/simple_tag", "gymnasium/CartPole-v1"]
    simulators += ["tests.simulators.council:SteadyCouncil", EVERYTHING, COUNCIL]
    with serving(*simulators, "--max-message-bytes", "4000000") as server:
        yield server


def words(text: str) -> str:
    return " ".join(text.replace("//", " ").split())


def test_every_sentence_is_in_the_contract():
    contract = words(" ".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto")))
    strange = [c.title for c in CHECKS if words(c.sentence) not in contract]
    assert not strange


def test_every_check_has_a_title_of_its_own():
    assert not [title for title, n in Counter(c.title for c in CHECKS).items() if n > 1]


@pytest.mark.slow
def test_the_real_servers_pass_entirely(server: Serving, tmp_path: Path):
    subjects = [
        subject
        for subject in runner.subjects(server.address, ConnectionOptions())
        if subject.simulator.name != COUNCIL
    ]
    assert len(subjects) == 6
    outcomes = runner.run(subjects, runner.chosen())
    bad = [o for o in outcomes if o.status in (Status.failed, Status.blocked)]
    assert not bad, [(o.simulator, o.check.title, o.verdict) for o in bad]
    tried = {o.check.title for o in outcomes if o.status is Status.passed}
    # What is left needs a token, a minute, a bound, a missing capability or a slow step.
    left = {c.title for c in CHECKS} - tried
    assert left == {
        *("serving/token", "serving/pings", "serving/too many sessions"),
        *("open/undeclared mode", "sequence/heartbeats"),
    }


def test_a_server_with_a_token_few_sessions_and_slow_steps(tmp_path: Path):
    (tmp_path / "token").write_text("sesame")
    flags = ["--token-file", str(tmp_path / "token"), "--max-sessions", "3"]
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from tests.simulators.everything import Everything\n"
        "class Slow(Everything):\n"
        "    def step(self, envs, actions):\n"
        "        time.sleep(0.5)\n"
        "        return super().step(envs, actions)\n"
    )
    with serving("slow:Slow", *flags, folder=tmp_path) as server:
        assert check(server.address).returncode == 2
        connection = ConnectionOptions(token_file=str(tmp_path / "token"))
        subjects = runner.subjects(server.address, connection)
        wanted = ["serving", "sequence/heartbeats"]
        outcomes = runner.run(subjects, runner.chosen(wanted, ["serving/pings"]))
    assert [o.status for o in outcomes] == [Status.passed] * 5, outcomes


def test_a_server_that_can_do_little():
    with serving("gymnasium-vector/CartPole-v1") as server:
        (subject,) = runner.subjects(server.address, ConnectionOptions())
        outcomes = runner.run([subject], runner.chosen(["open", "state/undeclared", "render"]))
    assert {o.check.title: o.status for o in outcomes}["open/undeclared mode"] is Status.passed
    bad = [o for o in outcomes if o.status in (Status.failed, Status.blocked)]
    assert not bad, [(o.check.title, o.verdict) for o in bad]


def test_a_server_that_goes_away_fails_and_the_kit_goes_on():
    with serving("adder") as server:
        subjects = runner.subjects(server.address, ConnectionOptions())
        server.kill()
        outcomes = runner.run(subjects, runner.chosen(["open", "resume", "serving/health"]))
    # What needs no server, such as a capability that is not declared, is still told.
    asked = [o for o in outcomes if o.status is not Status.not_offered]
    assert all(o.status in (Status.failed, Status.blocked, Status.not_exercised) for o in asked)
    granted = next(o for o in outcomes if o.check.title == "open/is granted")
    assert granted.status is Status.failed and "UNAVAILABLE" in granted.verdict


def test_a_server_that_never_replies_is_given_up(server: Serving):
    (real, *_) = runner.subjects(server.address, ConnectionOptions())
    over = threading.Event()

    def run(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(over.set)
        over.wait(30)
        yield from ()

    def describe(request: bytes, context: grpc.ServicerContext) -> bytes:
        return real.server.SerializeToString()

    silent = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        "Run": grpc.stream_stream_rpc_method_handler(run),
        "Describe": grpc.unary_unary_rpc_method_handler(describe),
    }
    silent.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"127.0.0.1:{silent.add_insecure_port('127.0.0.1:0')}"
    silent.start()
    try:
        subjects = runner.subjects(address, ConnectionOptions(), "adder", seconds=0.3)
        (outcome,) = runner.run(subjects, runner.chosen(["open/is granted"]))
    finally:
        silent.stop(None).wait(20)
    assert outcome.status is Status.failed
    assert "no reply within this check's time (--seconds)" in outcome.verdict


def test_simulators_that_count_their_episodes_are_found_out(server: Serving):
    result = check(server.address, "--simulator", COUNCIL, "--only", "seeds")
    assert result.returncode == 1
    assert "seeds/again in a session of " + COUNCIL in result.stdout
    assert "“The same seed with the same options gives the same episodes.”" in result.stdout
    assert "expected the same reply as at first; came another one" in result.stdout
    assert re.search(r"^4 checks: 3 passed, 1 failed; ", result.stdout, re.MULTILINE)


def test_the_table_and_the_junit_report(server: Serving, tmp_path: Path):
    file = tmp_path / "check.xml"
    arguments = ["--simulator", "adder", "--only", "render", "--only", "open/un*"]
    result = check(server.address, *arguments, "--junit", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"render +│ pictures +│ not offered +│ +\d\.\d\d │ no render", result.stdout)
    root = ET.parse(file).getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"server", "adder"}
    assert suites["adder"].get("failures") == "0" and suites["adder"].get("skipped") == "2"
    cases = {(case.get("classname"), case.get("name")): case for case in suites["adder"]}
    skipped = cases["adder.render", "pictures"].find("skipped")
    assert skipped.get("message") == "not offered: no render modes"
    assert len(cases["adder.open", "unknown option"]) == 0


def test_a_failure_in_the_junit_report(server: Serving, tmp_path: Path):
    file = tmp_path / "check.xml"
    check(server.address, "--simulator", COUNCIL, "--only", "seeds/again*", "--junit", str(file))
    failure = ET.parse(file).getroot().find(".//failure")
    assert failure.get("message").startswith("sent the same seeds again")
    assert failure.text.startswith("“The same seed")


def test_options_reach_the_simulator(server: Serving):
    arguments = ["--simulator", EVERYTHING, "--option", "length=3", "--only", "open/options"]
    assert check(server.address, *arguments).returncode == 0
    arguments[3] = "lenght=3"
    result = check(server.address, *arguments)
    assert result.returncode == 2 and "did you mean 'length'?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["127.0.0.1:1"], "cannot be reached"),
        ([], "there is no address"),
        (["nonsense"], "is no address"),
        (["127.0.0.1:1-2"], "give one address"),
        (["127.0.0.1:1", "--only", "nothing"], "no check matches 'nothing'"),
        (["127.0.0.1:1", "--health"], "cannot be reached"),
        (["127.0.0.1:1", "--only", "open", "--skip", "open"], "leave no check"),
        (["127.0.0.1:1", "--skip", "typo"], "no check matches 'typo'"),
        (["127.0.0.1:1", "--junit", "nowhere/report.xml"], "there is no folder nowhere"),
        (["127.0.0.1:1", "--tls-cert", "LICENSE"], "go together"),
    ],
)
def test_what_can_not_be_checked_exits_with_2(arguments: list[str], what: str):
    result = check(*arguments)
    assert result.returncode == 2, result.stdout
    assert what in result.stderr


def test_the_list_has_every_check_and_its_sentence():
    lines = check("--list").stdout.splitlines()
    assert lines[::2] == [c.title for c in CHECKS]
    assert lines[1::2] == [f"    {c.sentence}" for c in CHECKS]
    some = check("--list", "--only", "resume", "--skip", "*/a*").stdout.splitlines()
    assert some[::2] == [
        c.title for c in CHECKS if c.group == "resume" and not fnmatchcase(c.title, "*/a*")
    ]


def test_one_probe_of_health_asks_several_servers(server: Serving):
    both = check(f"{server.address},{server.address}", "--health")
    assert (both.returncode, both.stdout) == (0, "SERVING\n"), both.stderr
    other = check(f"{server.address},127.0.0.1:1", "--health")
    assert other.returncode == 2 and "127.0.0.1:1 cannot be reached" in other.stderr


def test_a_probe_of_health_is_short_and_imports_little(server: Serving):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "farsim", "check", server.address, "--health"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "SERVING\n")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "grpc" in imported and not imported & {"gymnasium", "numpy", "rich"}
