"""Who acts in a simulator, and what they see and do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from gymnasium import Space

from farsim import spaces, tensors
from farsim.channel import ConnectionOptions, open_channel, translate
from farsim.errors import (
    InvalidAction,
    InvalidArgument,
    InvalidObservation,
    InvalidTensor,
    ProtocolVersionError,
)
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, simulator_pb2, tensor_pb2

#: What the only agent is called.
SINGLE_AGENT = "agent"


class GroupLike(Protocol):
    """Agents that share their spaces; ``farsim.live.Group``, or a simulator's own."""

    @property
    def observation_space(self) -> Space[Any]: ...
    @property
    def action_space(self) -> Space[Any]: ...
    @property
    def agents(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def has_action_mask(self) -> bool: ...


@dataclass(frozen=True)
class Group:
    """Agents that share an observation and an action space.

    Attributes:
        observation_space: of one agent.
        action_space: of one agent.
        agents: their names, unique over all groups.
        name: the group's.
        has_action_mask: whether every observation comes with masks of what is allowed now.
    """

    observation_space: Space[Any]
    action_space: Space[Any]
    agents: tuple[str, ...] = (SINGLE_AGENT,)
    name: str = "agents"
    has_action_mask: bool = False


@dataclass(frozen=True)
class Role:
    """What an agent sees and does, and how that travels."""

    observation_space: Space[Any]
    action_space: Space[Any]
    has_action_mask: bool = False

    def encode_observation(self, value: Any, agent: str) -> tensor_pb2.Value:
        try:
            return encode_one(self.observation_space, value)
        except InvalidTensor as error:
            raise InvalidObservation(
                f"the observation of '{agent}': {error.message}", agent
            ) from None

    def encode_action(self, value: Any, agent: str) -> tensor_pb2.Value:
        try:
            return encode_one(self.action_space, value)
        except InvalidTensor as error:
            raise InvalidAction(f"the action of '{agent}': {error.message}", agent) from None

    def decode_action(self, value: tensor_pb2.Value) -> Any:
        """A value of the action space; its arrays are the caller's to write to."""
        (single,) = spaces.unbatch(
            self.action_space, spaces.decode(self.action_space, value.tensors, 1), 1
        )
        return single.copy() if isinstance(single, np.ndarray) else single

    def masks(self, mask: Any, agent: str) -> list[np.ndarray[Any, Any]]:
        """``mask`` as bool arrays [n], one for each masked leaf of the action space.

        Raises:
            InvalidArgument: there are more or fewer of them, or of another length.
        """
        widths = spaces.mask_widths(self.action_space)
        several = isinstance(mask, (list, tuple)) and len(mask) and np.ndim(mask[0]) > 0
        arrays = [np.asarray(one) for one in (mask if several else [mask])]
        if [array.shape for array in arrays] != [(width,) for width in widths] or not all(
            np.isin(array, (0, 1)).all() for array in arrays
        ):
            raise InvalidArgument(
                f"the action mask of '{agent}' is one array of booleans for each Discrete and "
                f"MultiDiscrete space in the action space, of lengths {widths}; found shapes "
                f"{[array.shape for array in arrays]}",
                agent,
            )
        return [array.astype(np.bool_) for array in arrays]


class Interface:
    """The agents of a simulator, and each one's role.

    Args:
        roles: by agent.
        others: the role of agents that ``roles`` does not name; None if there are none.
        is_multi_agent: whether observations are told apart by agent.
        groups: for ``Hello``; empty if the server knows.
    """

    def __init__(
        self,
        roles: Mapping[str, Role],
        others: Role | None,
        is_multi_agent: bool,
        groups: Sequence[simulator_pb2.Group] = (),
    ) -> None:
        self.roles = dict(roles)
        self.is_multi_agent = is_multi_agent
        self.groups = tuple(groups)
        self._others = others

    @property
    def single_agent(self) -> str:
        """The name of the only agent."""
        return next(iter(self.roles), SINGLE_AGENT)

    def find(self, agent: str) -> Role | None:
        """The role of an agent; None if there is none."""
        return self.roles.get(agent, self._others)

    def role(self, agent: str) -> Role:
        """The role of an agent.

        Raises:
            InvalidArgument: there is none.
        """
        role = self.find(agent)
        if role is None:
            raise InvalidArgument(
                f"there is no agent '{agent}'; there are {', '.join(map(repr, self.roles))}", agent
            )
        return role

    @classmethod
    def of_groups(cls, groups: Iterable[GroupLike]) -> Interface:
        """What a simulator says that its agents are.

        Raises:
            InvalidArgument: there is no agent, or one is named twice.
        """
        groups = tuple(groups)
        names = [agent for group in groups for agent in group.agents]
        if not names or len(set(names)) != len(names) or "" in names:
            raise InvalidArgument(
                f"groups name every agent once, and at least one; found {names}", "groups"
            )
        roles = {
            agent: Role(group.observation_space, group.action_space, group.has_action_mask)
            for group in groups
            for agent in group.agents
        }
        messages = [
            simulator_pb2.Group(
                name=group.name,
                agents=group.agents,
                observation_space=spaces.to_proto(group.observation_space),
                action_space=spaces.to_proto(group.action_space),
                has_action_mask=group.has_action_mask,
            )
            for group in groups
        ]
        return cls(roles, None, len(names) > 1, messages)

    @classmethod
    def of_policies(cls, policies: Sequence[pb.PolicyDescription], address: str) -> Interface:
        """What a server says that its policies act for.

        Raises:
            InvalidArgument: it serves several policies and does not say for whom.
        """
        roles: dict[str, Role] = {}
        others = None
        for policy in policies:
            role = Role(
                spaces.from_proto(policy.observation_space),
                spaces.from_proto(policy.action_space),
                policy.has_action_mask,
            )
            roles.update(dict.fromkeys(policy.agents, role))
            if not policy.agents:
                if others is not None:
                    raise InvalidArgument(
                        f"{address} serves several policies without saying which agents they act "
                        "for: give the agents and their spaces as 'groups'",
                        "groups",
                    )
                others = role
        if others is None and not roles:
            raise InvalidArgument(f"{address} serves no policy", address)
        return cls(roles, others, len(roles) + (others is not None) > 1)


def ask(channel: grpc.Channel, address: str, options: ConnectionOptions) -> Interface:
    """What the server on ``channel`` describes."""
    try:
        reply = policy_pb2_grpc.PolicyStub(channel).Describe(
            pb.DescribePoliciesRequest(), timeout=options.connect_seconds
        )
    except grpc.RpcError as error:
        raise translate(error, address) from None
    return described(reply, address)


def described(reply: pb.DescribePoliciesReply, address: str) -> Interface:
    """The interface in a server's description.

    Raises:
        ProtocolVersionError: it speaks another major version of the contract.
    """
    if not compatible(reply.protocol_version):
        raise ProtocolVersionError(
            f"{address} speaks version '{reply.protocol_version}' of farsim.v1, this client "
            f"{PROTOCOL_VERSION}: use releases whose major versions agree",
            address,
        )
    return Interface.of_policies(reply.policies, address)


def describe(address: str, options: ConnectionOptions) -> Interface:
    """What the server at ``address`` describes."""
    with open_channel(address, options) as channel:
        return ask(channel, address, options)


def encode_one(space: Space[Any], value: Any) -> tensor_pb2.Value:
    """A single value as a batch of one row."""
    return tensor_pb2.Value(tensors=spaces.encode(space, spaces.batch(space, [value]), 1))


def pack_masks(masks: Iterable[np.ndarray[Any, Any]]) -> list[tensor_pb2.Tensor]:
    """Masks of one row, for the wire."""
    return [tensors.pack(mask[None]) for mask in masks]
