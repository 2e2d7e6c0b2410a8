"""What a server says it has."""

from __future__ import annotations

import re

from farsim import spaces
from farsim.check.subject import Subject
from farsim.check.verdicts import Broken, Chapter, NotOffered
from farsim.errors import FarsimError, InvalidOption
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_DESCRIBE = "Describe"


@CHAPTER.check(
    "describe",
    "version",
    '"major.minor". Peers with the same major version understand each other',
    once=True,
)
def _version(subject: Subject) -> None:
    found = subject.server.protocol_version
    if not re.fullmatch(r"[0-9]+\.[0-9]+", found) or not compatible(found):
        raise Broken(
            _DESCRIBE, f"protocol_version {PROTOCOL_VERSION.partition('.')[0]}.x", repr(found)
        )


@CHAPTER.check(
    "describe", "whenever", "Cheap, free of side effects, and allowed at any time.", once=True
)
def _whenever(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    during = subject.describe(PROTOCOL_VERSION)
    if during != subject.server:
        raise Broken(
            "Describe again, while a session is open", "the same description", "another one"
        )


@CHAPTER.check(
    "describe", "names", "What `Open.simulator` takes; unique on this server.", once=True
)
def _names(subject: Subject) -> None:
    found = [simulator.name for simulator in subject.server.simulators]
    if len(set(found)) != len(found) or not all(found):
        raise Broken(_DESCRIBE, "simulators with different names", str(found))


@CHAPTER.check("describe", "spaces", "Exactly one is set.")
def _well_formed_spaces(subject: Subject) -> None:
    described = {}
    for group in subject.simulator.groups:
        described[f"group '{group.name}', observation_space"] = group.observation_space
        described[f"group '{group.name}', action_space"] = group.action_space
    for parameter in subject.simulator.parameters:
        described[f"parameter '{parameter.name}'"] = parameter.space
    for place, space in described.items():
        try:
            spaces.from_proto(space)
        except FarsimError as error:
            raise Broken(
                _DESCRIBE, "spaces as space.proto defines them", f"{place}: {error}"
            ) from error


@CHAPTER.check("describe", "agents", "At least one; names are unique over all groups.")
def _agents(subject: Subject) -> None:
    groups = [list(group.agents) for group in subject.simulator.groups]
    every = [agent for group in groups for agent in group]
    if not groups or not all(groups) or len(set(every)) != len(every):
        raise Broken(
            _DESCRIBE, "groups of at least one agent each, all with different names", str(groups)
        )


@CHAPTER.check("describe", "defaults", "Value default = 5; // A batch of one row.")
def _defaults(subject: Subject) -> None:
    if not subject.simulator.parameters:
        raise NotOffered("no parameters")
    for parameter in subject.simulator.parameters:
        space = spaces.from_proto(parameter.space)
        try:
            values = spaces.decode(space, parameter.default.tensors, 1)
            spaces.check(space, values, 1, InvalidOption, parameter.name)
        except FarsimError as error:
            raise Broken(
                _DESCRIBE,
                "a default that is one row, inside the parameter's space",
                f"parameter '{parameter.name}': {error}",
            ) from error


@CHAPTER.check("describe", "choices", "For a Text space: the only values allowed.")
def _choices(subject: Subject) -> None:
    chosen = [parameter for parameter in subject.simulator.parameters if parameter.choices]
    if not chosen:
        raise NotOffered("no parameter has choices")
    for parameter in chosen:
        space = spaces.from_proto(parameter.space)
        if parameter.space.WhichOneof("kind") != "text":
            raise Broken(_DESCRIBE, "choices with a Text space alone", f"'{parameter.name}'")
        default = spaces.decode(space, parameter.default.tensors, 1)[0]
        if default not in parameter.choices or not all(c in space for c in parameter.choices):
            raise Broken(
                _DESCRIBE,
                "choices inside the space, the default among them",
                f"parameter '{parameter.name}': {list(parameter.choices)}, default {default!r}",
            )


@CHAPTER.check(
    "describe",
    "autoreset modes",
    "repeated AutoresetMode autoreset_modes = 6; // At least one.",
)
def _autoreset_modes(subject: Subject) -> None:
    modes = list(subject.simulator.autoreset_modes)
    if not modes or pb.AUTORESET_MODE_UNSPECIFIED in modes or len(set(modes)) != len(modes):
        raise Broken(_DESCRIBE, "at least one mode, none of them UNSPECIFIED or twice", str(modes))


@CHAPTER.check("describe", "render modes", 'Gymnasium\'s names; "rgb_array" or none.')
def _render_modes(subject: Subject) -> None:
    modes = list(subject.simulator.render_modes)
    if modes not in ([], ["rgb_array"]):
        raise Broken(_DESCRIBE, "no render mode, or 'rgb_array'", str(modes))
