"""Networks on one machine: namespaces, each with a host or a router in it. They need root."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


def run(*command: str) -> str:
    """What a command printed, which must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


@dataclass(frozen=True)
class Host:
    """A namespace with one address.

    Attributes:
        name: the namespace's.
        address: its IPv4 address.
    """

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The command that runs the rest of its arguments there."""
        return ("ip", "netns", "exec", self.name)

    def run(self, *command: str) -> str:
        """What a command there printed, which must succeed."""
        return run(*self.inside, *command)


@contextmanager
def routed(networks: Mapping[str, str]) -> Iterator[dict[str, Host]]:
    """A host in each network, and a router between them.

    Args:
        networks: by the host's name, as in 10.20.0.0/24. They are apart from this machine's.
    """
    for program in ("ip", "iptables"):
        assert shutil.which(program), f"no {program} here: sudo apt-get install iproute2 iptables"
    own = f"farsim-{os.getpid()}"
    router = Host(f"{own}-router", "")
    hosts = {}
    made = []
    try:
        run("ip", "netns", "add", router.name)
        made.append(router.name)
        router.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        for number, (name, network) in enumerate(networks.items()):
            subnet = ipaddress.IPv4Network(network)
            # The first four addresses of a subnet are the cloud's own, of which one routes.
            gateway, address = str(subnet[1]), str(subnet[4])
            host = Host(f"{own}-{name}", address)
            run("ip", "netns", "add", host.name)
            made.append(host.name)
            port = f"port{number}"
            link = ("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0")
            router.run(*link, "netns", host.name)
            length = subnet.prefixlen
            router.run("ip", "address", "add", f"{gateway}/{length}", "dev", port)
            router.run("ip", "link", "set", port, "up")
            host.run("ip", "address", "add", f"{address}/{length}", "dev", "eth0")
            for device in ("lo", "eth0"):
                host.run("ip", "link", "set", device, "up")
            host.run("ip", "route", "add", "default", "via", gateway)
            hosts[name] = host
        yield hosts
    finally:
        for name in made:
            run("ip", "netns", "delete", name)
