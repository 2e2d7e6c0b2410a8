"""A Ray cluster for tests: several nodes on this machine, out of reach of every other Ray here.

It is a process of its own, since Ray's ``Cluster`` notes its address in Ray's folder, where
``ray.init()`` of any other test would look.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.servers import ROOT

#: Ray's workers are nice, and would wait for every other test on the machine. None is started
#: before there is something to do.
SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass
class RayCluster:
    """A cluster that runs.

    Attributes:
        address: for ``--ray-address``.
        nodes: their ids; the first is the head.
    """

    address: str
    nodes: list[str]
    _process: subprocess.Popen[str]

    def kill(self, node: str) -> None:
        """Kills all processes of a node that is not the head."""
        self._ask(node)
        self.nodes.remove(node)

    def add(self, **arguments: Any) -> None:
        """Adds a node."""
        self.nodes.append(self._ask(json.dumps(arguments)))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the cluster has died"
        return answer.strip()


@contextmanager
def ray_cluster(*nodes: Mapping[str, Any]) -> Iterator[RayCluster]:
    """A cluster with a node for each of ``nodes``, which are arguments of ``add_node``."""
    # A short path, for Ray's Unix sockets.
    folder = tempfile.mkdtemp(prefix="frc", dir="/tmp")
    environment = {**os.environ, **SETTINGS, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ray_cluster", json.dumps(nodes)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the cluster did not start: {process.wait(20)}"
        found = json.loads(line)
        yield RayCluster(found["address"], found["nodes"], process)
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _run(nodes: Sequence[Mapping[str, Any]]) -> None:
    """The cluster's own process."""
    from ray.cluster_utils import Cluster

    # Whatever Ray prints is not for those who ask.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    soon = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster()
    ports = {"dashboard_agent_listen_port": 0, "object_store_memory": 80 * 1024 * 1024}
    for number, arguments in enumerate(nodes):
        of_head = {
            "gcs_server_port": 0,
            "include_dashboard": False,
            "no_monitor": True,
            "_system_config": soon,
        }
        cluster.add_node(**{**ports, **(of_head if number == 0 else {}), **arguments})
    by_id = {node.node_id: node for node in cluster.list_all_nodes()}
    head = cluster.head_node.node_id
    ids = [head, *(node for node in by_id if node != head)]
    answers.write(json.dumps({"address": cluster.address, "nodes": ids}) + "\n")
    for line in map(str.strip, sys.stdin):
        if line in by_id:
            cluster.remove_node(by_id.pop(line), allow_graceful=False)
            answers.write(f"{line}\n")
        else:
            node = cluster.add_node(**{**ports, **json.loads(line)})
            by_id[node.node_id] = node
            answers.write(f"{node.node_id}\n")
    cluster.shutdown()


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
