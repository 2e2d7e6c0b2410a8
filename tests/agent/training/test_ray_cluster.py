"""``farsim train --ray-address``: env runners on all nodes, each with simulators of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.agent.training.command import Workplace, workplace
from tests.ray_cluster import RayCluster, ray_cluster
from tests.servers import serving

CARTPOLE = "gymnasium/CartPole-v1"

#: Makes a Python that reads it one without Farsim's head.
WITHOUT_AGENT = """\
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "agent":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(*({"num_cpus": 2} for _ in range(3))) as cluster:
        yield cluster


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as place:
        yield place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def metric(port: int, name: str) -> float:
    """The sum over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it did not come to that:\n{process.communicate()[0]}")
        time.sleep(0.1)


def results(run: Path) -> list[dict[str, Any]]:
    """RLlib's, of all iterations so far."""
    file = run / "result.json"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.long
@pytest.mark.slow
def test_every_runner_has_its_share_and_training_outlives_a_node(
    cluster: RayCluster, place: Workplace
):
    with ExitStack() as stack:
        metrics = [free_port() for _ in range(4)]
        servers = [
            stack.enter_context(serving(CARTPOLE, "--metrics-port", str(port))) for port in metrics
        ]
        addresses = [server.address for server in servers]
        run = place.folder / "run"
        process = place.start(
            *("train", CARTPOLE, "--sims", ",".join(addresses), "--seed", 1, "--out", run),
            *("--config", place.quick, "--ray-address", cluster.address),
        )
        stack.callback(process.kill)

        def steps() -> list[float]:
            return [metric(port, "farsim_environment_steps_total") for port in metrics]

        def all_step_on() -> None:
            before = steps()
            wait_until(
                lambda: all(now > then for now, then in zip(steps(), before, strict=True)), process
            )

        wait_until(lambda: len(results(run)) >= 2, process)
        all_step_on()
        assert [metric(port, "farsim_sessions") for port in metrics] == [1, 1, 1, 1]
        runners = json.loads((run / "run.json").read_text())["env_runners"]
        shares = [addresses[index::3] for index in range(3)]
        assert [runner["servers"] for runner in runners] == shares
        assert sorted(runner["node_id"] for runner in runners) == sorted(cluster.nodes)

        lost = next(runner for runner in runners if runner["node_id"] != cluster.nodes[0])
        cluster.kill(lost["node_id"])

        def has_recovered() -> bool:
            state = results(run)[-1]["fault_tolerance"]
            return state["num_remote_worker_restarts"] >= 1 and state["num_healthy_workers"] == 3

        wait_until(has_recovered, process)
        all_step_on()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert all(f"env runner {number} on " in output for number in (1, 2, 3))
        assert list((run / "checkpoints").iterdir())
    place.check_clean()


@pytest.mark.long
@pytest.mark.slow
def test_a_node_without_farsim_is_named(cluster: RayCluster, place: Workplace):
    (place.folder / "sitecustomize.py").write_text(WITHOUT_AGENT)
    with serving(CARTPOLE) as server:
        arguments = ("train", CARTPOLE, "--sims", server.address, "--out", place.folder / "run")
        arguments += ("--config", place.quick, "--ray-address", cluster.address)
        cluster.add(num_cpus=1, env_vars={"PYTHONPATH": str(place.folder)})
        output = place.here(*arguments, code=1)
        assert "has no agent: install farsim[train]" in output
        cluster.kill(cluster.nodes[-1])


@pytest.mark.long
@pytest.mark.slow
def test_other_nodes_do_not_reach_local_servers(cluster: RayCluster, place: Workplace):
    output = place.here("train", "adder", "--ray-address", cluster.address, code=1)
    assert "name them with --sims" in output
