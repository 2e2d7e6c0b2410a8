"""Waiting until all that a training run needs is there: simulator servers, and nodes of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from rich.console import Console

from farsim.channel import ConnectionOptions, open_channel, translate
from farsim.check import health
from farsim.errors import AuthenticationFailed, FarsimError, ServerUnavailable

#: How long one server may take to answer one question.
_ASK_SECONDS = 5.0
#: Between two rounds of questions.
_PAUSE_SECONDS = 1.0
#: How many servers are asked at one time.
_AT_ONCE = 16


def wait_for_servers(
    addresses: Sequence[str],
    connection: Mapping[str, Any],
    seconds: float,
    console: Console,
) -> None:
    """Returns when every server says that it serves.

    Args:
        addresses: of the servers.
        connection: fields of ``ConnectionOptions``.
        seconds: to wait at most.
        console: shows how many are missing.

    Raises:
        ServerUnavailable: some are not there in time; says which, and what they last answered.
        AuthenticationFailed: one has a certificate that is not trusted, or trusts none of ours;
            it is not waited for. Whether a token is the right one does not show here, since
            anybody may ask a server how it is.
    """
    options = ConnectionOptions.of(connection)
    missing = dict.fromkeys(addresses, "")

    def ask() -> str:
        answers = _ask_all(list(missing), options)
        for address, answer in answers.items():
            missing.pop(address, None)
            if answer:
                missing[address] = answer
        there = len(addresses) - len(missing)
        return f"{there} of {len(addresses)} simulator servers are there" if missing else ""

    if _wait(ask, seconds, console):
        named = "; ".join(f"{address}: {answer}" for address, answer in missing.items())
        raise ServerUnavailable(
            f"{len(missing)} of {len(addresses)} simulator servers were not there within "
            f"{seconds:g} s (--wait-seconds): {named}. 'farsim doctor ADDRESS' finds out why",
            ", ".join(missing),
        )
    console.print(f"simulators  all {len(addresses)} servers are there")


def wait_for_nodes(nodes: int, seconds: float, console: Console) -> None:
    """Returns when a Ray cluster, to which this process is connected, has so many nodes.

    Args:
        nodes: how many, that of the head included.
        seconds: to wait at most.
        console: shows how many there are.

    Raises:
        ServerUnavailable: there are fewer; says which are there.
    """
    import ray

    there: list[str] = []

    def ask() -> str:
        there[:] = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        return f"{len(there)} of {nodes} Ray nodes are there" if len(there) < nodes else ""

    if _wait(ask, seconds, console):
        raise ServerUnavailable(
            f"{nodes - len(there)} of {nodes} Ray nodes were not there within {seconds:g} s "
            f"(--wait-seconds); there are {', '.join(there) or 'none'}: look at the log of the "
            "others, and whether they reach the head's port 6379",
            "--ray-nodes",
        )
    console.print(f"Ray         all {nodes} nodes are there")


def _wait(ask: Callable[[], str], seconds: float, console: Console) -> str:
    """Asks until nothing is missing; what is, if the time is over."""
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        state = ask()
        left = deadline - time.monotonic()
        if not state or left <= 0:
            return state
        if state != told:
            # A line for each change, since a job's log shows no status line.
            console.print(f"waiting     {state}; {left:.0f} s are left", soft_wrap=True)
            told = state
        time.sleep(min(_PAUSE_SECONDS, left))


def _ask_all(addresses: Sequence[str], options: ConnectionOptions) -> Mapping[str, str]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda address: _ask(address, options), addresses)
        return dict(zip(addresses, answers, strict=True))


def _ask(address: str, options: ConnectionOptions) -> str:
    """What is wrong with a server; empty if nothing is."""
    # A channel for each question, since gRPC tries a broken one again only after a while.
    with open_channel(address, options) as channel:
        try:
            status = health.status(channel, _ASK_SECONDS)
        except grpc.RpcError as error:
            translated = translate(error, address)
            if isinstance(translated, AuthenticationFailed):
                raise translated from error
            return _first_line(translated)
    return "" if status == "SERVING" else f"says {status}"


def _first_line(error: FarsimError) -> str:
    return error.message.splitlines()[0].rstrip(".")
