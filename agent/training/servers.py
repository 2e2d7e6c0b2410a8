"""The simulators that a command uses: those named, or local ones for as long as it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from rich.console import Console

from agent.local_servers import LocalServers
from farsim import addresses as address_lists


def _leave_cores(servers: int) -> None:
    """Keeps Torch off the servers' cores: waiting for each other costs its threads far more."""
    if servers and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - servers))


@contextlib.contextmanager
def server_addresses(
    sims: str, simulator: str, local_servers: int, console: Console
) -> Iterator[list[str]]:
    """The addresses to use.

    Args:
        sims: addresses as people write them; empty starts local servers, and stops them in the
            end, whatever happens.
        simulator: what local servers serve.
        local_servers: how many of them.
        console: where to tell that they start.
    """
    if sims:
        addresses = address_lists.expand(sims)
        _leave_cores(sum(address_lists.is_loopback(address) for address in addresses))
        yield addresses
        return
    _leave_cores(local_servers)
    servers = LocalServers(simulator, count=local_servers)
    try:
        with console.status(f"starting {local_servers} simulator servers …"):
            servers.start()
        yield servers.addresses
    finally:
        servers.stop()
