"""The generated security rules as a packet filter of this machine's kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from deploy.azure.rules import Rule


def packet_filter(rules: Iterable[Rule]) -> list[list[str]]:
    """The rules as arguments of iptables, for every host of the subnet.

    As the cloud does it: the first rule that fits decides of a connection, and its packets pass
    in both directions from then on. What a host says to itself is not filtered.
    """
    lines = [["-i", "lo", "-j", "ACCEPT"]]
    lines += [["-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]]
    for rule in sorted(rules, key=lambda rule: rule.priority):
        line = ["-m", "comment", "--comment", rule.name]
        for flag, network in (("-s", rule.source), ("-d", rule.destination)):
            if network != "*":
                line += [flag, str(ipaddress.IPv4Network(network))]
        if rule.ports:
            ports = ",".join(rule.ports).replace("-", ":")
            line += ["-p", "tcp", "-m", "multiport", "--dports", ports]
        lines.append([*line, "-j", "ACCEPT" if rule.allow else "DROP"])
    return [["-A", "INPUT", *line] for line in lines]
