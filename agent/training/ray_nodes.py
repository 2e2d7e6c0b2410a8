"""The nodes of a Ray cluster: whether they can sample, and env runners on all of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.rllib.algorithms import algorithm as rllib_algorithm
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agent.training.configuration import Setting
from farsim.errors import FarsimError, InvalidAddress

logger = logging.getLogger(__name__)

#: For a worker process to start on a busy node.
_ANSWER_SECONDS = 60.0

#: What an env runner imports.
_PACKAGES = ("farsim", "agent", "ray.rllib", "torch")

#: Fields of ``ConnectionOptions`` that are files, which env runners read where they are.
_FILES = ("tls_ca", "tls_cert", "tls_key", "token_file")


class NodeNotReady(FarsimError, RuntimeError):
    """A node of the Ray cluster on which no env runner could work."""


@dataclass(frozen=True)
class RayNode:
    """A machine of the cluster, or whatever Ray takes for one.

    Attributes:
        id: Ray's, in hexadecimal.
        host: its address.
        cpus: that Ray gives to actors there.
    """

    id: str
    host: str
    cpus: float


def nodes() -> list[RayNode]:
    """Those that are alive."""
    return [
        RayNode(node["NodeID"], node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_nodes(connection: Mapping[str, Any]) -> None:
    """Sees to it that every node that takes env runners has what they need.

    Args:
        connection: fields of ``ConnectionOptions``; its files must be on every node.

    Raises:
        NodeNotReady: one has no Farsim, another version of it, or not those files; or none has
            a CPU for env runners.
    """
    found = [node for node in nodes() if node.cpus]
    if not found:
        raise NodeNotReady("no node of the Ray cluster has a CPU for env runners")
    files = [connection[name] for name in _FILES if connection.get(name)]
    here = _version()

    def look(packages: Sequence[str], files: Sequence[str]) -> tuple[list[str], list[str], str]:
        # Within a function, since Ray then sends its code: none of ours may be there.
        import importlib.util
        from importlib import metadata

        def is_there(package: str) -> bool:
            try:
                return importlib.util.find_spec(package) is not None
            except ImportError:
                return False

        def is_readable(file: str) -> bool:
            try:
                with open(file, "rb"):
                    return True
            except OSError:
                return False

        try:
            version = metadata.version("farsim")
        except metadata.PackageNotFoundError:
            version = ""
        return (
            [package for package in packages if not is_there(package)],
            [file for file in files if not is_readable(file)],
            version,
        )

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    answers = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(_PACKAGES, files)
        for node in found
    ]
    for node, answer in zip(found, answers, strict=True):
        try:
            missing, unreadable, version = ray.get(answer, timeout=_ANSWER_SECONDS)
        except (RayError, GetTimeoutError) as error:
            if node.id not in {other.id for other in nodes()}:
                logger.warning("Ray node %s has died: going on without it", node.host)
                continue
            raise NodeNotReady(
                f"Ray node {node.host} does not answer: {error}", node.host
            ) from error
        if missing:
            raise NodeNotReady(
                f"Ray node {node.host} has no {', '.join(missing)}: install farsim[train] {here} "
                "on every node, in the Python that runs 'ray start'",
                node.host,
            )
        if here and version != here:
            raise NodeNotReady(
                f"Ray node {node.host} has Farsim {version or 'of an unknown version'} and this "
                f"machine {here}: install the same one on every node",
                node.host,
            )
        if unreadable:
            raise NodeNotReady(
                f"Ray node {node.host} can not read {', '.join(unreadable)}: env runners take "
                "certificates and tokens from the same paths on every node",
                node.host,
            )


def settings(servers: Sequence[str], are_local: bool) -> dict[str, dict[str, Setting]]:
    """Env runners where nobody has said how many: one a node, but not more than servers.

    A cluster of one node samples in the learner's process, as without a cluster.

    Args:
        servers: addresses of the simulators.
        are_local: whether they were started here, for this machine alone.

    Raises:
        InvalidAddress: they are, and there are further nodes.
    """
    number = len([node for node in nodes() if node.cpus])
    if are_local and number > 1:
        raise InvalidAddress(
            f"the Ray cluster has {number} nodes, and simulators that are started here are for "
            "this machine alone: start servers that all nodes reach, and name them with --sims"
        )
    number = min(number, len(servers))
    if number < 2:
        return {}
    return {"env_runners": {"num_env_runners": Setting(number, "--ray-address")}}


def shortage(config: Any) -> str:
    """What the cluster lacks for the env runners of a configuration; empty if it has enough."""
    wanted = config.num_env_runners * config.num_cpus_per_env_runner
    here = sum(node.cpus for node in nodes())
    if wanted <= here:
        return ""
    return (
        f"{config.num_env_runners} env runners want {wanted:g} CPUs, and the Ray cluster has "
        f"{here:g}: waiting for further nodes (fewer --env-runners would not)"
    )


class _SpreadEnvRunnerGroup(EnvRunnerGroup):
    """Env runners on one node after the other; RLlib's fill up a node before the next."""

    def _setup(self, **arguments: Any) -> None:
        self._remote_args["scheduling_strategy"] = "SPREAD"
        super()._setup(**arguments)


@contextlib.contextmanager
def spread_runners() -> Iterator[None]:
    """Within it, algorithms are built with env runners on as many nodes as there are.

    RLlib knows no other way than Tune, whose algorithms are actors of their own.
    """
    module: Any = rllib_algorithm
    module.EnvRunnerGroup = _SpreadEnvRunnerGroup
    try:
        yield
    finally:
        module.EnvRunnerGroup = EnvRunnerGroup


def where_runners_are(algorithm: Any) -> list[dict[str, Any]]:
    """Of each env runner its number, its node's address and id, and the servers that it uses."""
    group = algorithm.env_runner_group
    if group is None or not group.num_remote_env_runners():
        return []
    told = group.foreach_env_runner(_where, local_env_runner=False)
    return sorted(told, key=lambda runner: int(runner["env_runner"]))


def _where(runner: Any) -> dict[str, Any]:
    servers = runner.env.unwrapped.addresses
    return {
        "env_runner": runner.worker_index,
        "node": ray.util.get_node_ip_address(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "servers": list(dict.fromkeys(server for server in servers if server)),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("farsim")
    except importlib.metadata.PackageNotFoundError:
        return ""
