"""What is deployed, as noted on this machine: where a deployment's servers are and whom they trust.

Whatever deploys simulators (Docker on this machine, a cloud) writes a note, and whatever uses them
reads it: ``farsim train --deployment NAME`` needs no package of the deployer's. A note says only
how to connect; what really runs is asked of Docker or of the cloud.

Notes are JSON files in ``$FARSIM_STATE/deployments``, by default in ``farsim/deployments`` below
``$XDG_STATE_HOME`` or ``~/.local/state``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farsim.errors import FarsimError

#: What Docker, DNS and Azure all take as part of a name.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


class InvalidDeploymentName(FarsimError, ValueError):
    """A name that containers and hosts cannot have."""


class UnknownDeployment(FarsimError, LookupError):
    """No deployment of that name."""


@dataclass(frozen=True)
class Deployment:
    """How to reach the servers of a deployment.

    Attributes:
        name: the deployment's.
        kind: what runs it, as in ``farsim deploy <kind>``.
        simulators: their names, as the servers offer them.
        addresses: ``host:port`` of each server.
        connection: fields of ``farsim.channel.ConnectionOptions``; files with absolute paths.
    """

    name: str
    kind: str
    simulators: tuple[str, ...]
    addresses: tuple[str, ...]
    connection: Mapping[str, str] = field(default_factory=dict)


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        InvalidDeploymentName: it is not 1 to 40 lower-case letters, digits and inner hyphens.
    """
    if not _NAME.fullmatch(name):
        raise InvalidDeploymentName(
            f"'{name}' can not name a deployment: take up to 40 lower-case letters, digits and "
            "hyphens, the first and the last no hyphen",
            name,
        )
    return name


def write(deployment: Deployment) -> Path:
    """Notes a deployment in place of what is noted under its name; the file.

    Raises:
        InvalidDeploymentName: see ``check_name``.
        OSError: the folder can not be written.
    """
    path = _path(deployment.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(deployment), indent=2) + "\n")
    os.replace(partial, path)
    return path


def read(name: str) -> Deployment:
    """What is noted under a name.

    Raises:
        InvalidDeploymentName: see ``check_name``.
        UnknownDeployment: nothing is, or not as ``write`` does; says which names there are.
    """
    path = _path(name)
    try:
        content = json.loads(path.read_text())
        return Deployment(
            name=name,
            kind=str(content["kind"]),
            simulators=_texts(content["simulators"]),
            addresses=_texts(content["addresses"]),
            connection={str(key): str(value) for key, value in content["connection"].items()},
        )
    except FileNotFoundError:
        there = ", ".join(names()) or "none at all"
        raise UnknownDeployment(
            f"no deployment '{name}' was made from this machine (there: {there}); 'farsim deploy' "
            "makes one, and --sims takes addresses instead",
            name,
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownDeployment(
            f"{path} does not say where deployment '{name}' is ({error!r}): make it anew, or give "
            "its addresses with --sims",
            name,
        ) from error


def remove(name: str) -> bool:
    """Forgets a deployment; whether there was something to forget."""
    with contextlib.suppress(FileNotFoundError):
        _path(name).unlink()
        return True
    return False


def names() -> list[str]:
    """Those noted, in order."""
    return sorted(path.stem for path in folder().glob("*.json"))


def folder() -> Path:
    """Where the notes are."""
    state = os.environ.get("FARSIM_STATE")
    if state:
        return Path(state, "deployments")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base, "farsim", "deployments")


def _path(name: str) -> Path:
    return folder() / f"{check_name(name)}.json"


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"a list of texts, not {values!r}")
    return tuple(str(value) for value in values)
