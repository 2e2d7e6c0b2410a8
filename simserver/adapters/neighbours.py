"""Simulators that other projects' servers offer, by their addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from farsim.errors import UnknownSimulator
from simserver.adapters.remote_worlds import World
from simserver.simulator import Parameter

_KNOWN = "dmenv://, dmenvs:// (with TLS), openenv+http://, openenv+https://"


@dataclass(frozen=True)
class Neighbour:
    """A server that speaks another protocol.

    Attributes:
        connect: joins one of its worlds, given a value for each parameter.
        parameters: what clients may choose.
        description: one line for people.
    """

    connect: Callable[..., World]
    parameters: tuple[Parameter, ...]
    description: str


def find(url: str) -> Neighbour:
    """The server at ``url``; it is not contacted yet.

    Raises:
        UnknownSimulator: no such protocol, or no host and port.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UnknownSimulator(f"'{url}': {error}", url) from error
    if parts.scheme in ("dmenv", "dmenvs"):
        if not host or port is None or parts.path.strip("/"):
            raise UnknownSimulator(f"write {parts.scheme}://host:port, not '{url}'", url)
        from simserver.adapters.dm_env_rpc_world import PARAMETERS, DmEnvRpcWorld

        secure = parts.scheme == "dmenvs"
        return Neighbour(
            lambda **options: DmEnvRpcWorld(parts.netloc, secure, **options),
            PARAMETERS,
            f"A world of the dm_env_rpc server at {parts.netloc}",
        )
    if parts.scheme in ("openenv+http", "openenv+https"):
        if not host or parts.query or parts.fragment:
            raise UnknownSimulator(f"write {parts.scheme}://host:port/path, not '{url}'", url)
        from simserver.adapters import openenv_world

        address = url.removeprefix("openenv+")
        return Neighbour(
            lambda **options: openenv_world.OpenEnvWorld(address, **options),
            openenv_world.PARAMETERS,
            f"An environment of the OpenEnv server at {address}",
        )
    raise UnknownSimulator(f"no simulator '{url}': addresses begin with {_KNOWN}", url)
