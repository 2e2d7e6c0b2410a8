"""A network as the cloud has it: head and simulators apart, with the generated rules in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.azure.rules import head_rules, simulator_rules
from deploy.deployment_file import parse
from deploy.schema import Network
from tests.agent.training.command import Workplace, workplace
from tests.deploy.packet_filter import packet_filter
from tests.namespaces import Host, routed
from tests.servers import ROOT, serving

CARTPOLE = "gymnasium/CartPole-v1"
FILE = f"""\
name: scheduling
network: {{name: farsim}}
simulators:
  - {{simulator: {CARTPOLE}, workers: 2, tls: certs}}
  - {{simulator: adder, port: 50061, tls: certs}}
"""
OUTSIDE = "10.30.0.0/24"
#: After which a packet filter forgets a question that nobody has answered.
FORGET_SECONDS = 1


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    """By name: head, simulators, outside."""
    deployment = parse(FILE, "farsim.yaml")
    network = deployment.network
    assert isinstance(network, Network)
    rules = {
        "head": head_rules(deployment, network),
        "simulators": simulator_rules(deployment, network),
    }
    networks = {
        "head": network.head_subnet,
        "simulators": network.simulator_subnet,
        "outside": OUTSIDE,
    }
    with routed(networks) as hosts:
        for host in hosts.values():
            forget = f"net.netfilter.nf_conntrack_tcp_timeout_syn_sent={FORGET_SECONDS}"
            host.run("sysctl", "--quiet", "--write", forget)
        for name, table in rules.items():
            for line in packet_filter(table):
                hosts[name].run("iptables", *line)
        yield hosts


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as place:
        yield place


def answering(*pairs: tuple[Host, Host]) -> list[dict[str, list[int]]]:
    """For each pair, the ports of the first host that the second finds not silent."""
    scan = str(ROOT / "tests" / "deploy" / "port_scan.py")
    scans = [
        subprocess.Popen(
            [*here.inside, sys.executable, scan, there.address], stdout=subprocess.PIPE, text=True
        )
        for there, here in pairs
    ]
    # They mostly wait, and do so together.
    try:
        return [json.loads(process.communicate(timeout=120)[0]) for process in scans]
    finally:
        for process in scans:
            process.kill()
            process.wait(20)


@pytest.mark.long
@pytest.mark.slow
def test_training_works_and_every_other_port_is_silent(
    hosts: dict[str, Host], place: Workplace, tmp_path: Path
):
    head, simulators, outside = hosts["head"], hosts["simulators"], hosts["outside"]
    certs = tmp_path / "certs"
    place.run("certs", "--out", certs, "--host", simulators.address, "--token")
    own = ("--tls-cert", certs / "server.pem", "--tls-key", certs / "server-key.pem")
    own += ("--tls-client-ca", certs / "ca.pem", "--token-file", certs / "token")
    ways_in = ("--tls-ca", certs / "ca.pem", "--tls-cert", certs / "client.pem")
    ways_in += ("--tls-key", certs / "client-key.pem", "--token-file", certs / "token")
    with ExitStack() as stack:
        two = stack.enter_context(
            serving(
                *map(str, (CARTPOLE, "--workers", 2, *own)),
                address=f"{simulators.address}:50051",
                inside=simulators.inside,
            )
        )
        # What nobody should reach, on both sides, and it is there.
        for host, port in ((simulators, 50053), (head, 6379)):
            listener = subprocess.Popen(
                [*host.inside, sys.executable, "-m", "http.server", str(port)],
                cwd=place.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            stack.callback(listener.wait, 20)
            stack.callback(listener.kill)
            wait_for_listener(host, port)

        train = ("train", CARTPOLE, "--sims", ",".join(two.addresses), "--stop-steps", 1200)
        options = ("--config", place.quick, "--seed", 1, "--out", place.folder / "run")
        process = place.start(*train, *options, *ways_in, inside=head.inside)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        assert "finished" in output and (place.folder / "run" / "progress.csv").is_file()

        itself, seen, *closed = answering(
            (simulators, simulators), (simulators, head), (head, outside)
        )
        # What the others may not reach is there.
        assert {50051, 50052, 50053} <= set(itself["accepted"])
        # The adder's port is open, and nobody is there.
        assert seen == {"accepted": [50051, 50052], "refused": [50061]}
        # A filter that knows connections takes a question for the answer to one in the opposite
        # direction with the same two ports, until it has forgotten that one.
        time.sleep(2 * FORGET_SECONDS)
        of_head, *more = answering((head, head), (simulators, outside), (head, simulators))
        assert 6379 in of_head["accepted"]
        assert [*closed, *more] == [{"accepted": [], "refused": []}] * 3
    place.check_clean()


def wait_for_listener(host: Host, port: int) -> None:
    """Waits until something in a host listens on a port."""
    ask = f"import socket; socket.create_connection(('{host.address}', {port})).close()"
    for _ in range(200):
        code = subprocess.run(
            [*host.inside, sys.executable, "-c", ask], stderr=subprocess.DEVNULL, env=os.environ
        ).returncode
        if code == 0:
            return
    raise AssertionError(f"nobody listens on {host.address}:{port}")
