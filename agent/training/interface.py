"""What a simulator looks like, from a session that is opened for a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode

from agent.description import Group
from agent.models import masking
from agent.session import Session
from farsim import spaces as farsim_spaces
from farsim.channel import ConnectionOptions
from farsim.errors import Unsupported


@dataclass(frozen=True)
class Simulators:
    """Where to sample, and what.

    Attributes:
        addresses: of the servers.
        simulator: its name there.
        options: the parameters that were chosen.
        connection: fields of ``ConnectionOptions``.
        envs_per_session: as at ``RemoteVectorEnv``.
        sampling: further keys of ``RemoteEnvConfig``, as ``sampling.check`` takes them.
    """

    addresses: Sequence[str]
    simulator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)
    envs_per_session: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Interface:
    """What a simulator with these options looks like.

    Attributes:
        simulator: its name on the server.
        session_options: the value of every parameter.
        groups: the agents and their spaces.
        can_render: whether it gives pictures.
        autoreset_modes: what it can do when an episode is over.
    """

    simulator: str
    session_options: Mapping[str, Any]
    groups: tuple[Group, ...]
    can_render: bool = False
    autoreset_modes: tuple[AutoresetMode, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of all agents, group after group."""
        return tuple(agent for group in self.groups for agent in group.agents)

    @property
    def observation_space(self) -> Space[Any]:
        """The only agent's, without the mask."""
        return self._only_group.observation_space

    @property
    def action_space(self) -> Space[Any]:
        """The only agent's."""
        return self._only_group.action_space

    @property
    def has_action_mask(self) -> bool:
        """Whether it says which actions the only agent may choose."""
        return self._only_group.has_action_mask

    def masked_observation_space(self) -> Space[Any]:
        """The only agent's with the mask, as ``RemoteVectorEnv`` puts it there."""
        return masked_space(self._only_group)

    @property
    def _only_group(self) -> Group:
        if len(self.agents) != 1:
            raise Unsupported(
                f"simulator '{self.simulator}' has {len(self.agents)} agents "
                f"({', '.join(self.agents)}), and this takes simulators with one"
            )
        return self.groups[0]


def masked_space(group: Group) -> Space[Any]:
    """What an agent observes, with its action mask, for one Discrete or MultiDiscrete action."""
    (width,) = farsim_spaces.mask_widths(group.action_space)
    mask = Box(0.0, 1.0, (width,), np.float32)
    return Dict({masking.OBSERVATIONS: group.observation_space, masking.ACTION_MASK: mask})


def look_at(simulators: Simulators) -> Interface:
    """Opens a session for a moment, to see what is there.

    Raises:
        FarsimError: what the server answered.
    """
    connection = ConnectionOptions.of(simulators.connection)
    with Session.open(
        simulators.addresses[0],
        simulators.simulator,
        1,
        simulators.options,
        connection=connection,
    ) as session:
        return Interface(
            session.description.name,
            dict(session.options),
            tuple(session.groups),
            "rgb_array" in session.description.render_modes,
            session.description.autoreset_modes,
        )
