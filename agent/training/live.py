"""``farsim train --live``: the simulators run by themselves, and ask for actions here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from rich.console import Console

from agent.description import Group
from agent.training.interrupt import Interrupt
from farsim.errors import FarsimError, InvalidArgument
from farsim.v1 import simulator_pb2

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from agent.training.algorithm import Interface, Plan

#: From one line about waiting to the next, in seconds.
_TELL_SECONDS = 30.0

#: What a run is called whose simulators are known by a file only.
NAMELESS = "live"


class InvalidSpaces(FarsimError, ValueError):
    """A file that does not say what simulators see and do."""


class StoppedWaiting(FarsimError):
    """Ctrl-C or SIGTERM came while no simulator did."""


@dataclass(frozen=True)
class LiveRequest:
    """How live simulators are taken.

    Attributes:
        address: where the first env runner listens.
        spaces: a file that says what simulators look like; None: a simulator is named.
        max_staleness: as at ``LiveConfig``.
        listen: as at ``LiveConfig``.
    """

    address: str = "127.0.0.1:50061"
    spaces: Path | None = None
    max_staleness: int | None = None
    listen: Mapping[str, Any] = field(default_factory=dict)


def read_groups(path: Path) -> tuple[Group, ...]:
    """The agents and their spaces: a JSON list of ``Group``, as ``simulator.proto`` has it.

    Raises:
        InvalidSpaces: there is no such file, or it says something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpaces(f"cannot read {path}: {error.strerror}", str(path)) from error
    except ValueError as error:
        raise InvalidSpaces(f"{path} is no JSON: {error}", str(path)) from error
    if not isinstance(document, list) or not document:
        raise InvalidSpaces(f"{path} has to be a list of groups of agents", str(path))
    groups = []
    for number, entry in enumerate(document):
        try:
            message = json_format.ParseDict(entry, simulator_pb2.Group())
        except json_format.ParseError as error:
            raise InvalidSpaces(f"{path}: group {number}: {error}", str(path)) from error
        if not message.agents:
            message.agents.append("agent")
        groups.append(Group.from_proto(message))
    return tuple(groups)


def interface_of(path: Path) -> Interface:
    """What simulators look like, by a file.

    Raises:
        InvalidSpaces: see ``read_groups``.
    """
    from agent.training.algorithm import Interface

    return Interface(NAMELESS, {}, read_groups(path))


def live_plan(plan: Plan, request: LiveRequest) -> Plan:
    """``plan`` with live simulators in the place of remote ones."""
    from agent.live.env_runner import LiveEnvRunner, LiveMultiAgentEnvRunner
    from farsim.live.interface import Group as LiveGroup

    groups = tuple(
        LiveGroup(
            group.observation_space,
            group.action_space,
            group.agents,
            group.name,
            group.has_action_mask,
        )
        for group in plan.interface.groups
    )
    runner = LiveEnvRunner if plan.mapping is None else LiveMultiAgentEnvRunner
    config = plan.config.copy(copy_frozen=False)
    # In the place of what is there, which config.environment() would keep.
    config.env_config = {
        "address": request.address,
        "groups": groups,
        "action_mask_in_observation": plan.action_mask,
        "max_staleness": request.max_staleness,
        "listen": dict(request.listen),
    }
    # Simulators are as many as come.
    config.env_runners(env_runner_cls=runner, num_envs_per_env_runner=1)
    return replace(plan, config=config)


def addresses(algorithm: Algorithm) -> list[str]:
    """Where simulators find the policy: one place for each env runner."""
    group: Any = algorithm.env_runner_group
    return [
        place for place in group.foreach_env_runner(lambda runner: runner.live_address) if place
    ]


class Host:
    """Tells people about live simulators while an algorithm trains.

    With env runners of their own, in other processes, only where they are.

    Args:
        algorithm: as ``live_plan`` has it.
        console: where to tell.
        interrupt: ends the wait for simulators.
    """

    def __init__(self, algorithm: Algorithm, console: Console, interrupt: Interrupt) -> None:
        self.addresses = addresses(algorithm)
        self._console, self._interrupt = console, interrupt
        self._told = -math.inf
        self._runner: Any = algorithm.env_runner
        if self._waits_here:
            self._runner.on_waiting = self._waiting

    @property
    def _waits_here(self) -> bool:
        """Whether the runner that takes simulators is in this process, and can say so."""
        return self._runner is not None and bool(self._runner.live_address)

    def announce(self) -> None:
        places = ", ".join(self.addresses)
        self._console.print(f"simulators find their actions at {places}", soft_wrap=True)

    def _waiting(self, runner: Any, seconds: float) -> None:
        if self._interrupt.number:
            raise StoppedWaiting("stopped while waiting for simulators")
        now = time.monotonic()
        if not runner.simulators and now - self._told >= _TELL_SECONDS:
            self._console.print(f"waiting for simulators at {runner.live_address}", soft_wrap=True)
            self._told = now


def request_of(
    address: str,
    spaces: Path | None,
    max_staleness: int | None,
    connection: Mapping[str, str],
    insecure: bool,
) -> LiveRequest:
    """From the options of the command line.

    Args:
        address: host:port.
        spaces: a file, or None.
        max_staleness: of transitions; None for what suits the algorithm.
        connection: TLS files and the token's, which are the service's own here.
        insecure: whether plain text is fine beyond this machine.

    Raises:
        InvalidArgument: a certificate without its key.
    """
    if ("tls_cert" in connection) != ("tls_key" in connection):
        raise InvalidArgument("--tls-cert and --tls-key go together", "tls_cert")
    names = {"tls_ca": "tls_client_ca"}
    listen: dict[str, Any] = {names.get(name, name): path for name, path in connection.items()}
    if insecure:
        listen["insecure"] = True
    return LiveRequest(address, spaces, max_staleness, listen)
