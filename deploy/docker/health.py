"""Whether containers are up, and why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from farsim.errors import DeadlineExceeded, FarsimError

_POLL_SECONDS = 0.3
_LAST_LINES = 20


class ContainerFailed(FarsimError, RuntimeError):
    """A container that ended, or is not healthy."""


def state(container: Any) -> str:
    """In one word: healthy, starting, unhealthy, restarting, exited, ..."""
    found = container.attrs["State"]
    status = str(found["Status"])
    health = found.get("Health")
    return str(health["Status"]) if status == "running" and health else status


def wait_until_healthy(
    containers: Sequence[Any], seconds: float, tell: Callable[[int], None]
) -> None:
    """Waits until all are healthy.

    Args:
        containers: of Docker's SDK.
        seconds: the longest to wait.
        tell: called with the number of healthy ones, whenever it was looked.

    Raises:
        ContainerFailed: one ended or is unhealthy; says which, why, and what it printed last.
        DeadlineExceeded: one is still starting; the same.
    """
    until = time.monotonic() + seconds
    while True:
        healthy = 0
        for container in containers:
            container.reload()
            found = state(container)
            healthy += found == "healthy"
            # A server that ended is started anew, and would look as if it were starting.
            if container.attrs["RestartCount"] or found not in ("created", "starting", "healthy"):
                raise ContainerFailed(
                    f"{container.name} {_reason(container)}{_said(container)}", container.name
                )
        tell(healthy)
        if healthy == len(containers):
            return
        if time.monotonic() > until:
            slow = next(container for container in containers if state(container) != "healthy")
            raise DeadlineExceeded(
                f"{slow.name} was not healthy within {seconds:g} s; --wait-seconds waits longer"
                f"{_probed(slow)}{_said(slow)}",
                slow.name,
            )
        time.sleep(_POLL_SECONDS)


def _reason(container: Any) -> str:
    found = container.attrs["State"]
    if found.get("OOMKilled"):
        return "ran out of memory; --memory gives it more"
    if found["Status"] == "running" and not container.attrs["RestartCount"]:
        return f"is unhealthy{_probed(container)}"
    if found["Status"] == "running":
        # Started anew already, and with that its exit code is gone.
        return "ended, and was started anew"
    return f"ended with code {found['ExitCode']}{': ' + found['Error'] if found['Error'] else ''}"


def _probed(container: Any) -> str:
    log = (container.attrs["State"].get("Health") or {}).get("Log") or []
    said = log[-1]["Output"].strip() if log else ""
    return f"; its health check said: {said}" if said else ""


def _said(container: Any) -> str:
    text = container.logs(tail=_LAST_LINES).decode(errors="replace").strip()
    return f". It printed:\n{text}" if text else "; it printed nothing"
