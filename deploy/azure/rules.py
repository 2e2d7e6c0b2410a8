"""Who may reach whom in a deployment's network: the least that it needs.

Rules are first a plain table, of which Azure's security rules are made (``network.py``); whatever
else filters packets can be given the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.schema import Deployment, Network

#: Ray's ports between the nodes of a cluster: GCS, client, dashboard and what ``ray start`` is told
#: to use for its node manager, object manager and agents (see ``RAY_START_PORTS``), and workers.
RAY_PORTS = ("6379", "8076-8081", "8265", "10001-19999")

#: How ``ray start`` is told which ports to use, so that a rule can name them.
RAY_START_PORTS = (
    "--node-manager-port=8076",
    "--object-manager-port=8077",
    "--runtime-env-agent-port=8078",
    "--dashboard-agent-grpc-port=8079",
    "--dashboard-agent-listen-port=8080",
    "--metrics-export-port=8081",
    "--min-worker-port=10002",
    "--max-worker-port=19999",
)

#: By which Azure Machine Learning manages nodes that have public addresses.
_MANAGEMENT_PORTS = ("29876-29877",)

#: What Azure's own last rule has is 65500; ours closes before those that open.
_LAST = 4096


@dataclass(frozen=True)
class Rule:
    """One line of a packet filter, for connections that come in; the first that fits decides.

    Attributes:
        name: of the rule.
        priority: lower ones come first.
        allow: whether to let in.
        source: a network, a service tag of Azure's, or "*".
        destination: a network, or "*".
        ports: TCP's, "50051" or "50051-50054"; empty for everything of every protocol.
        description: why it is there.
    """

    name: str
    priority: int
    allow: bool
    source: str
    destination: str
    ports: tuple[str, ...]
    description: str


def simulator_rules(deployment: Deployment, network: Network) -> tuple[Rule, ...]:
    """Of the simulators' subnet: the head may call their ports, and nobody else anything."""
    ports = sorted({port for group in deployment.simulators for port in group.ports})
    allowed = Rule(
        "head-to-simulators",
        100,
        True,
        network.head_subnet,
        network.simulator_subnet,
        _ranges(ports),
        "The head calls the simulators.",
    )
    return (*((allowed,) if ports else ()), _closed("simulators take no other connection"))


def head_rules(deployment: Deployment, network: Network) -> tuple[Rule, ...]:
    """Of the head's subnet: Ray among its own nodes if there are several, and no one else."""
    rules = []
    if deployment.head is not None and deployment.head.nodes > 1:
        rules.append(
            Rule(
                "ray",
                100,
                True,
                network.head_subnet,
                network.head_subnet,
                RAY_PORTS,
                "Ray's nodes call each other.",
            )
        )
    if network.public_head and deployment.azure is not None:
        rules.append(
            Rule(
                "azure-ml-management",
                200,
                True,
                f"BatchNodeManagement.{deployment.azure.location}",
                "*",
                _MANAGEMENT_PORTS,
                "Azure Machine Learning manages nodes that have public addresses.",
            )
        )
        rules.append(
            Rule(
                "azure-load-balancer",
                210,
                True,
                "AzureLoadBalancer",
                "*",
                (),
                "Probes of the load balancer before nodes with public addresses.",
            )
        )
    return (*rules, _closed("the head takes no other connection"))


def _closed(why: str) -> Rule:
    return Rule("nothing-else", _LAST, False, "*", "*", (), f"{why.capitalize()}.")


def _ranges(ports: list[int]) -> tuple[str, ...]:
    """Consecutive ports as ranges: ``[1, 2, 3, 7]`` gives ``("1-3", "7")``."""
    runs: list[list[int]] = []
    for port in ports:
        if runs and port == runs[-1][-1] + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return tuple(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
