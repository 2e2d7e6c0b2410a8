"""What the policies of a server do with a simulator's action masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from farsim.channel import ConnectionOptions
from farsim.errors import InvalidArgument
from farsim.live.interface import Interface, describe
from simserver.simulator import Group


def as_served(
    groups: Sequence[Group], address: str, connection: ConnectionOptions
) -> tuple[Group, ...]:
    """The groups as the policies know them: without masks where they take none.

    An algorithm that cannot learn with masks, such as DQN, has been trained without them on the
    same simulator. The other way round, masks that a policy wants and the simulator does not
    have, is for the server to refuse.

    Args:
        groups: the simulator's.
        address: of the policies' server.
        connection: how to connect to it.

    Raises:
        FarsimError: the server cannot be asked.
    """
    if not any(group.has_action_mask for group in groups):
        return tuple(groups)
    try:
        served = describe(address, connection)
    except InvalidArgument:
        # It does not say whom it acts for, and has to see for itself.
        return tuple(groups)
    return tuple(
        replace(group, has_action_mask=False)
        if group.has_action_mask and not _take_masks(group, served)
        else group
        for group in groups
    )


def _take_masks(group: Group, served: Interface) -> bool:
    """Whether any policy of the group's agents does, or is not known."""
    roles = [served.find(agent) for agent in group.agents]
    return any(role is None or role.has_action_mask for role in roles)
