"""How patient a run is with its simulators, and how large messages may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farsim.addresses import is_loopback
from farsim.channel import ConnectionOptions
from farsim.deployment import Deployment
from farsim.errors import InvalidOption

#: Fields of ``ConnectionOptions`` that are files or secrets, and what takes them.
_FLAGS = {
    "tls_ca": "--tls-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "tls_server_name": "--tls-server-name",
    "token": "--token-file",
    "token_file": "--token-file",
}

#: ``resume_seconds`` for containers that are reached over the loopback interface, which itself does
#: not fail: a stream that breaks there means a server that has ended, and its sessions with it.
_RESUME_ON_LOOPBACK_SECONDS = 5.0


def check(options: Mapping[str, Any]) -> None:
    """Whether a training file, or ``--connection``, may say so.

    Raises:
        UnknownOption: a key that is no field of ``ConnectionOptions``; says which is nearest.
        InvalidOption: a value that is not positive, or a field that has a flag of its own.
    """
    for name in options:
        if name in _FLAGS:
            raise InvalidOption(
                f"connection option '{name}' cannot be set here: use {_FLAGS[name]}", name
            )
    ConnectionOptions.of(options)


def suited_to(deployment: Deployment) -> dict[str, float]:
    """Options for a deployment's servers, where ``ConnectionOptions`` would wait in vain."""
    if deployment.kind == "docker" and all(map(is_loopback, deployment.addresses)):
        return {"resume_seconds": _RESUME_ON_LOOPBACK_SECONDS}
    return {}
