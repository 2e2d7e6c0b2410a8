"""Values of a simulator's parameters, checked and packed for a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.description import Parameter, SimulatorDescription
from farsim import options as option_values
from farsim import spaces
from farsim.errors import InvalidOption
from farsim.v1 import simulator_pb2 as pb


@dataclass(frozen=True)
class Each:
    """Values of an option for each environment of a reset, where one for all is not meant."""

    values: Sequence[Any]


def options_to_proto(
    description: SimulatorDescription, options: Mapping[str, Any], count: int | None
) -> pb.Options:
    """Checked values; for a reset of ``count`` environments, or for opening if that is None.

    Raises:
        UnknownOption: no parameter of the simulator.
        InvalidOption: a value that is not allowed, or not here.
    """
    message = pb.Options()
    for name, value in options.items():
        option_values.known(name, description.parameters, description.name)
        parameter = description.parameters[name]
        if count is not None and not parameter.per_episode:
            per_episode = (p.name for p in description.parameters.values() if p.per_episode)
            raise InvalidOption(
                f"option '{name}' holds for a whole session, so it is given when that is opened; "
                f"a reset takes: {', '.join(per_episode) or 'none'}",
                name,
            )
        members = _members(parameter, value, count)
        batched = spaces.batch(parameter.space, members)
        message.values[name].tensors.extend(spaces.encode(parameter.space, batched, len(members)))
    return message


def _members(parameter: Parameter, value: Any, count: int | None) -> list[Any]:
    values: Iterable[Any] = [value]
    if isinstance(value, Each):
        if count is None or len(value.values) != count:
            raise InvalidOption(
                f"option '{parameter.name}' has {len(value.values)} values for "
                f"{'a session, which takes one' if count is None else f'{count} environments'}",
                parameter.name,
            )
        values = value.values
    return [
        option_values.check(parameter.name, parameter.space, item, parameter.choices)
        for item in values
    ]
