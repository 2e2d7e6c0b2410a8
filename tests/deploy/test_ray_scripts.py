"""A Ray cluster by ``deploy/ray``: in a network with the generated rules, and with a token."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.azure.rules import RAY_PORTS, RAY_START_PORTS, head_rules, simulator_rules
from deploy.deployment_file import parse
from tests.agent.training.command import Workplace, workplace
from tests.deploy.packet_filter import packet_filter
from tests.namespaces import Host, routed
from tests.ray_cluster import SETTINGS
from tests.servers import ROOT, serving

SCRIPTS = ROOT / "deploy" / "ray"
CARTPOLE = "gymnasium/CartPole-v1"
FILE = f"""\
name: scheduling
azure: {{subscription: none, resource_group: rl, location: westeurope, workspace: rl}}
network: {{head_subnet: 10.20.0.0/24}}
simulators:
  - {{simulator: {CARTPOLE}, workers: 2, insecure: true}}
head: {{nodes: 2, max_nodes: 2}}
"""
#: Two halves of the head's subnet, since a router can only be between networks.
NETWORKS = {"first": "10.20.0.0/25", "second": "10.20.0.128/25", "simulators": "10.20.1.0/24"}

CONNECT = """\
import sys
from agent.training.ray_runtime import ray_runtime
with ray_runtime(sys.argv[1]):
    print("came in")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short path, for Ray's Unix sockets.
    path = Path(tempfile.mkdtemp(prefix="frs", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def environment(folder: Path, token: str) -> dict[str, str]:
    """Of a machine with a token, or without if it is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Python comes first on the path, and the user has no token at home.
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    own = {"PATH": path, "HOME": str(folder), "RAY_TMPDIR": str(folder)}
    if token:
        own["RAY_AUTH_MODE"] = "token"
        own["RAY_AUTH_TOKEN"] = token
    return {**kept, **SETTINGS, **own}


@contextmanager
def started(
    host: Host, *command: str, env: Mapping[str, str], ready: str
) -> Iterator[subprocess.Popen[str]]:
    """A script that stays, once it has printed ``ready``; it is stopped, and must stop."""
    process = subprocess.Popen(
        [*host.inside, *command, "--block", "--num-cpus=2", "--object-store-memory=80000000"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        printed = ""
        while ready not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        yield process
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(20)


def test_the_ports_are_those_of_the_rules():
    script = (SCRIPTS / "options.sh").read_text() + (SCRIPTS / "start-head.sh").read_text()
    assert set(RAY_START_PORTS) <= set(script.split())
    ranges = [(ports + f"-{ports}").split("-") for ports in RAY_PORTS]
    for port in re.findall(r"port=(\d+)", script):
        assert any(int(found[0]) <= int(port) <= int(found[1]) for found in ranges), port


@pytest.mark.parametrize("script", [("start-head.sh",), ("start-node.sh", "10.20.0.4:6379")])
def test_there_is_no_cluster_without_a_token(script: tuple[str, ...], folder: Path):
    result = subprocess.run(
        [SCRIPTS / script[0], *script[1:]],
        env=environment(folder, ""),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "error: no token: set RAY_AUTH_TOKEN" in result.stderr


@pytest.mark.long
@pytest.mark.slow
def test_two_machines_train_together_and_a_stranger_stays_out(folder: Path, tmp_path: Path):
    deployment = parse(FILE, "farsim.yaml")
    assert deployment.network is not None
    of_head = packet_filter(head_rules(deployment, deployment.network))
    of_simulators = packet_filter(simulator_rules(deployment, deployment.network))
    own, stranger = environment(folder, "a-token-of-ours-" * 4), environment(folder, "")
    with ExitStack() as stack:
        hosts = stack.enter_context(routed(NETWORKS))
        first, second, simulators = (hosts[name] for name in NETWORKS)
        for host, lines in ((first, of_head), (second, of_head), (simulators, of_simulators)):
            for line in lines:
                host.run("iptables", *line)
        two = stack.enter_context(
            serving(
                *(CARTPOLE, "--workers", "2", "--insecure"),
                address=f"{simulators.address}:50051",
                inside=simulators.inside,
            )
        )
        address = f"{first.address}:6379"
        head = (str(SCRIPTS / "start-head.sh"), f"--node-ip-address={first.address}")
        node = (str(SCRIPTS / "start-node.sh"), address, f"--node-ip-address={second.address}")
        ready = "This command will now block forever"
        stack.enter_context(started(first, *head, env=own, ready=ready))
        stack.enter_context(started(second, *node, env=own, ready=ready))

        strangers = [
            subprocess.Popen(
                [*second.inside, sys.executable, "-c", CONNECT, address],
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for env in (stranger, {**own, "RAY_AUTH_TOKEN": "another" * 8})
        ]
        place: Workplace = stack.enter_context(workplace(tmp_path))
        train = ("train", CARTPOLE, "--sims", ",".join(two.addresses), "--stop-steps", 1200)
        options = ("--config", place.quick, "--seed", 1, "--out", tmp_path / "run")
        token = ("env", f"RAY_AUTH_TOKEN={own['RAY_AUTH_TOKEN']}", "RAY_AUTH_MODE=token")
        process = place.start(
            *train, *options, "--ray-address", address, inside=(*first.inside, *token)
        )
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        runners = json.loads((tmp_path / "run" / "run.json").read_text())["env_runners"]
        assert {runner["node"] for runner in runners} == {first.address, second.address}
        assert [runner["servers"] for runner in runners] == [[one] for one in two.addresses]
        for refused in strangers:
            said, _ = refused.communicate(timeout=120)
            assert refused.returncode == 1, said
            assert "that lets us in" in said and "came in" not in said.splitlines()
