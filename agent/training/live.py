"""``farsim train --live``: the simulators run by themselves, and ask for actions here."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from rich.console import Console

from agent.description import Group
from farsim import spaces
from farsim.errors import FarsimError, InvalidArgument, SpaceMismatch
from farsim.v1 import simulator_pb2

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from agent.live.greeting import GreetingServer
    from agent.training.algorithm import Interface, Plan
    from agent.training.waiting import Patience

#: From one line about waiting to the next, in seconds.
_TELL_SECONDS = 30.0

#: From one look for the first simulator to the next, in seconds.
_LOOK_SECONDS = 0.2

#: How long an env runner waits in one round of sampling.
WAIT_SECONDS = 5.0

#: What a run is called whose simulators are known by a file only.
NAMELESS = "live"


class InvalidSpaces(FarsimError, ValueError):
    """A file that does not say what simulators see and do."""


@dataclass(frozen=True)
class LiveRequest:
    """How live simulators are taken.

    Attributes:
        address: where the first env runner listens.
        spaces: a file that says what simulators look like; None: a simulator is named.
        max_staleness: as at ``LiveConfig``.
        listen: as at ``LiveConfig``.
        runners: how many env runners take live simulators, while the others step remote
            environments; 0: all do, and there are none of the others.
    """

    address: str = "127.0.0.1:50061"
    spaces: Path | None = None
    max_staleness: int | None = None
    listen: Mapping[str, Any] = field(default_factory=dict)
    runners: int = 0


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


def greet(request: LiveRequest, console: Console, patience: Patience) -> GreetingServer:
    """Waits for the first simulator, whose agents and spaces are then to be learned for.

    Returns:
        The server, which goes on letting in simulators that are like the first one.

    Raises:
        StoppedWaiting: patience is over.
    """
    from agent.live.greeting import GreetingServer
    from agent.live.live_config import LiveConfig

    options = LiveConfig(listen=request.listen).server_options()
    server = GreetingServer(request.address, options)
    try:
        server.start()
        told = -math.inf
        while not server.wait(_LOOK_SECONDS):
            patience.check()
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                console.print(
                    f"waiting for the first simulator at {server.address}, to see what there is "
                    "to learn",
                    soft_wrap=True,
                )
    except BaseException:
        server.close(grace_seconds=0.0)
        raise
    for group in server.groups:
        console.print(
            f"the first simulator has {', '.join(group.agents)}: sees {group.observation_space}, "
            f"does {group.action_space}",
            soft_wrap=True,
            highlight=False,
        )
    return server


@contextlib.contextmanager
def handed_over(server: GreetingServer, plan: Plan) -> Iterator[Plan]:
    """Ends ``server``; the first env runner of this ``plan`` takes its sessions over.

    Within, while the algorithm is built: RLlib writes its configuration to disk, where nothing
    that opens a session belongs.
    """
    from agent.live.greeted import write_greeted

    server.close(grace_seconds=0.0)
    with tempfile.TemporaryDirectory(prefix="farsim-") as folder:
        path = Path(folder, "greeted")
        write_greeted(path, server.greeted)
        config = plan.config.copy(copy_frozen=False)
        config.env_config = {
            **config.env_config,
            "address": server.address,
            "greeted": str(path),
        }
        yield replace(plan, config=config)


def check_same(remote: Interface, live: Interface) -> None:
    """Raises ``SpaceMismatch`` unless one learner can learn from both; says where they differ."""
    ours = {agent: group for group in remote.groups for agent in group.agents}
    theirs = {agent: group for group in live.groups for agent in group.agents}
    found = [f"agent '{agent}' is only there" for agent in theirs if agent not in ours]
    found += [f"agent '{agent}' is only here" for agent in ours if agent not in theirs]
    for agent in [agent for agent in ours if agent in theirs]:
        here, there = ours[agent], theirs[agent]
        for name in ("observation_space", "action_space"):
            differences = spaces.differences(getattr(here, name), getattr(there, name))
            found += [f"'{agent}': {name} {difference}" for difference in differences]
        if here.has_action_mask != there.has_action_mask:
            found.append(
                f"'{agent}': action masks only {'here' if here.has_action_mask else 'there'}"
            )
    if found:
        raise SpaceMismatch(
            "remote environments and live simulators are to feed the same networks, and differ "
            f"(here: '{remote.simulator}', there: the live ones): " + "; ".join(found[:5]),
            remote.simulator,
        )


def live_plan(plan: Plan, request: LiveRequest) -> Plan:
    """``plan`` with live simulators in the place of remote ones, or beside them.

    Raises:
        InvalidOption: env runners of both kinds are wanted, and there are too few.
    """
    from agent.live.env_runner import LiveEnvRunner, LiveMultiAgentEnvRunner
    from agent.training.mixed_env_runner import MixedConfig, MixedEnvRunner
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
    config = plan.config.copy(copy_frozen=False)
    live = {
        "address": request.address,
        "groups": groups,
        "action_mask_in_observation": plan.action_mask,
        "max_staleness": request.max_staleness,
        "listen": dict(request.listen),
    }
    # In the place of what is there, which config.environment() would keep.
    if request.runners:
        config.env_config = {
            "remote": plan.config.env_config,
            "live": live,
            "live_runners": request.runners,
        }
        MixedConfig.of(config.env_config).check_runners(config.num_env_runners)
        config.env_runners(env_runner_cls=MixedEnvRunner)
        return replace(plan, config=config)
    config.env_config = {**live, "wait_seconds": WAIT_SECONDS}
    runner = LiveEnvRunner if plan.mapping is None else LiveMultiAgentEnvRunner
    # Simulators are as many as come.
    config.env_runners(env_runner_cls=runner, num_envs_per_env_runner=1)
    return replace(plan, config=config)


def addresses(algorithm: Algorithm) -> list[str]:
    """Where simulators find the policy: one place for each env runner."""
    group: Any = algorithm.env_runner_group
    # In a run with both kinds of env runners, some have none.
    found = group.foreach_env_runner(lambda runner: getattr(runner, "live_address", ""))
    return [place for place in found if place]


class Host:
    """Tells people about live simulators while an algorithm trains, and ends the wait for them.

    Args:
        algorithm: as ``live_plan`` has it.
        console: where to tell.
        patience: how long to wait.
    """

    def __init__(self, algorithm: Algorithm, console: Console, patience: Patience) -> None:
        from agent.training.waiting import watch_rounds

        self.addresses = addresses(algorithm)
        self._console, self._patience = console, patience
        self._told = -math.inf
        runner: Any = algorithm.env_runner
        if getattr(runner, "live_address", ""):
            runner.on_waiting = self._waiting
        else:
            watch_rounds(algorithm, patience, WAIT_SECONDS, self._tell)

    def announce(self) -> None:
        places = ", ".join(self.addresses)
        self._console.print(f"simulators find their actions at {places}", soft_wrap=True)

    def _waiting(self, runner: Any, seconds: float) -> None:
        self._patience.check()
        if not runner.simulators:
            self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            places = ", ".join(self.addresses)
            self._console.print(f"waiting for simulators at {places}", soft_wrap=True)
            self._told = now


def request_of(
    address: str,
    spaces: Path | None,
    max_staleness: int | None,
    connection: Mapping[str, str],
    insecure: bool,
    runners: int = 0,
) -> LiveRequest:
    """From the options of the command line.

    Args:
        address: host:port.
        spaces: a file, or None.
        max_staleness: of transitions; None for what suits the algorithm.
        connection: TLS files and the token's, which are the service's own here.
        insecure: whether plain text is fine beyond this machine.
        runners: that take live simulators, of env runners of both kinds; 0 for all.

    Raises:
        InvalidArgument: a certificate without its key.
    """
    if ("tls_cert" in connection) != ("tls_key" in connection):
        raise InvalidArgument("--tls-cert and --tls-key go together", "tls_cert")
    names = {"tls_ca": "tls_client_ca"}
    listen: dict[str, Any] = {names.get(name, name): path for name, path in connection.items()}
    if insecure:
        listen["insecure"] = True
    return LiveRequest(address, spaces, max_staleness, listen, runners)
