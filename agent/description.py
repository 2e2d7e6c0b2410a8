"""What a server offers, as Python objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from gymnasium import Space
from gymnasium.vector import AutoresetMode

from agent.connection import connection_to
from farsim import spaces
from farsim.channel import ConnectionOptions, translate
from farsim.errors import ProtocolVersionError
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

AUTORESET_TO_PROTO = {
    AutoresetMode.NEXT_STEP: pb.AUTORESET_MODE_NEXT_STEP,
    AutoresetMode.SAME_STEP: pb.AUTORESET_MODE_SAME_STEP,
    AutoresetMode.DISABLED: pb.AUTORESET_MODE_DISABLED,
}
AUTORESET_FROM_PROTO = {number: mode for mode, number in AUTORESET_TO_PROTO.items()}


@dataclass(frozen=True)
class Group:
    """Agents that share an observation and an action space.

    Attributes:
        name: the group's.
        agents: their names. With E environments and A agents, row ``e * A + a`` of the group's
            arrays is agent ``a`` of environment ``e``.
        observation_space: of one agent.
        action_space: of one agent.
        has_action_mask: whether batches say which actions are allowed.
    """

    name: str
    agents: tuple[str, ...]
    observation_space: Space[Any]
    action_space: Space[Any]
    has_action_mask: bool

    @classmethod
    def from_proto(cls, group: pb.Group) -> Group:
        return cls(
            name=group.name,
            agents=tuple(group.agents),
            observation_space=spaces.from_proto(group.observation_space),
            action_space=spaces.from_proto(group.action_space),
            has_action_mask=group.has_action_mask,
        )


@dataclass(frozen=True)
class Parameter:
    """Something that a client may choose.

    Attributes:
        name: its key in ``options``.
        description: one line for people.
        space: the values allowed.
        unit: of the value; empty if it has none.
        default: a value of ``space``.
        choices: for a ``Text`` space the only values allowed; empty for any.
        per_episode: whether ``reset`` takes it as well.
    """

    name: str
    description: str
    space: Space[Any]
    unit: str
    default: Any
    choices: tuple[str, ...]
    per_episode: bool

    @classmethod
    def from_proto(cls, parameter: pb.Parameter) -> Parameter:
        space = spaces.from_proto(parameter.space)
        return cls(
            name=parameter.name,
            description=parameter.description,
            space=space,
            unit=parameter.unit,
            default=decode_one(space, parameter.default),
            choices=tuple(parameter.choices),
            per_episode=parameter.per_episode,
        )


@dataclass(frozen=True)
class SimulatorDescription:
    """One simulator on offer; ``groups`` are those for the parameters' defaults.

    Attributes:
        name: what ``Session.open`` takes.
        description: one line for people.
        groups: the agents and their spaces.
        parameters: by name.
        max_episode_steps: after how many steps an episode is truncated at the latest; 0 for no
            known bound.
        autoreset_modes: those that it can.
        render_modes: ``("rgb_array",)`` or none.
        can_save_state: whether ``save_state`` and ``load_state`` work.
        max_environments: how many one session may have; 0 for no bound of its own.
    """

    name: str
    description: str
    groups: tuple[Group, ...]
    parameters: Mapping[str, Parameter]
    max_episode_steps: int
    autoreset_modes: tuple[AutoresetMode, ...]
    render_modes: tuple[str, ...]
    can_save_state: bool
    max_environments: int

    @classmethod
    def from_proto(cls, simulator: pb.SimulatorDescription) -> SimulatorDescription:
        return cls(
            name=simulator.name,
            description=simulator.description,
            groups=tuple(Group.from_proto(group) for group in simulator.groups),
            parameters={
                parameter.name: Parameter.from_proto(parameter)
                for parameter in simulator.parameters
            },
            max_episode_steps=simulator.max_episode_steps,
            autoreset_modes=tuple(
                AUTORESET_FROM_PROTO[mode]
                for mode in simulator.autoreset_modes
                if mode in AUTORESET_FROM_PROTO
            ),
            render_modes=tuple(simulator.render_modes),
            can_save_state=simulator.can_save_state,
            max_environments=simulator.max_environments,
        )


def describe(
    address: str, connection: ConnectionOptions | Mapping[str, Any] | None = None
) -> list[SimulatorDescription]:
    """The simulators on offer at ``address``.

    Raises:
        ServerUnavailable: nobody answers there within ``connect_seconds``.
        AuthenticationFailed: the server does not let this client in.
        ProtocolVersionError: it speaks another major version of the contract.
    """
    options = ConnectionOptions.of(connection)
    asked = connection_to(address, options)
    try:
        reply = ask(asked.describe, address, options)
    finally:
        asked.hang_up(farewell=False)
    return [SimulatorDescription.from_proto(simulator) for simulator in reply.simulators]


def ask(
    describe: Callable[[float], pb.DescribeReply], address: str, options: ConnectionOptions
) -> pb.DescribeReply:
    """The description as it came, from a server of a version that this client understands.

    Args:
        describe: what to ask, with a time limit in seconds.
        address: of the server.
        options: how patient to be.
    """
    try:
        reply = describe(options.connect_seconds)
    except grpc.RpcError as error:
        raise translate(error, address) from None
    if not compatible(reply.protocol_version):
        raise ProtocolVersionError(
            f"{address} speaks version '{reply.protocol_version}' of farsim.v1, this client "
            f"{PROTOCOL_VERSION}: use releases whose major versions agree",
            address,
        )
    return reply


def decode_one(space: Space[Any], value: tensor_pb2.Value) -> Any:
    """The single value in a batch of one row."""
    (single,) = spaces.unbatch(space, spaces.decode(space, value.tensors, 1), 1)
    return single
