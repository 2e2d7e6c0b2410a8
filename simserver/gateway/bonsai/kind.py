"""A kind of simulator: what all that register under one name have in common."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from farsim.errors import FarsimError
from farsim.options import nearest
from simserver.gateway.bonsai import config, schema
from simserver.gateway.bonsai.expression import Expression, ExpressionError
from simserver.gateway.bonsai.schema import SchemaError, Struct
from simserver.simulator import Group, Parameter

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NOTHING = {"category": "Struct", "fields": []}


class RulesError(FarsimError, ValueError):
    """Rules for a kind of simulator that are none."""


@dataclass(frozen=True)
class Rules:
    """What a simulator does not say of itself.

    Attributes:
        reward: an expression, or ``module:function``.
        terminal: the same, for whether an episode has come to its natural end; empty for never.
        episode_steps: an episode is truncated after so many steps; 0 for no bound.
        halted: what it means that a simulator says it has halted: "terminal", or "truncated" for
            the end of its time or data.
        observe: the fields of the state to observe; empty for all.
        options: defaults for fields of the configuration.
        seed_field: the field of the configuration that gets the seed; empty for none.
        interface: the interface description to use instead of the simulators' own.
    """

    reward: str = "0"
    terminal: str = ""
    episode_steps: int = 0
    halted: str = "terminal"
    observe: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed_field: str = ""
    interface: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raises ``ExpressionError`` or ``RulesError`` for what is wrong whatever the simulator."""
        for label, text in (("reward", self.reward), ("terminal", self.terminal)):
            if text:
                _function(text, label, None, None)
        if self.halted not in ("terminal", "truncated"):
            raise RulesError(f"halted is terminal or truncated, not '{self.halted}'", "halted")
        if self.episode_steps < 0:
            raise RulesError("episode_steps is 0 or more", "episode_steps")


class Kind:
    """The spaces and the rules of the simulators of one name.

    Args:
        name: theirs.
        description: of the interface: ``state``, ``action`` and perhaps ``config``.
        rules: the user's.

    Attributes:
        state: type of the whole state.
        observed: type of what is observed of it.
        action: type of an action.
        group: the one agent.
        fields: of the configuration, for parameters.

    Raises:
        FarsimError: the description can not be used, or the rules do not fit it.
    """

    def __init__(self, name: str, description: Any, rules: Rules) -> None:
        if not isinstance(description, Mapping):
            raise SchemaError(
                f"simulator '{name}' does not describe its state and actions: let it send a "
                "description when it registers, or give the gateway one with --interface",
                "description",
            )
        self.name, self.rules, self.description = name, rules, description
        self.state = schema.read(description.get("state"), "state")
        self.action = schema.read(description.get("action"), "action")
        configured = schema.read(description.get("config") or _NOTHING, "config")
        for label, struct in (("state", self.state), ("action", self.action)):
            if not struct.fields:
                raise SchemaError(f"simulator '{name}': the {label} has no fields", label)
        for observed in rules.observe:
            if observed not in self.state.fields:
                hint = nearest(observed, self.state.fields)
                raise RulesError(f"observe: no field '{observed}' in state{hint}", "observe")
        self.observed = Struct(
            {n: t for n, t in self.state.fields.items() if not rules.observe or n in rules.observe}
        )
        self.group = Group(self.observed.space, self.action.space)
        self.fields = config.fields(configured, rules.options, rules.seed_field)
        self._reward = _function(rules.reward, "reward", self.state, self.action)
        self._terminal = (
            _function(rules.terminal, "terminal", self.state, self.action)
            if rules.terminal
            else lambda scope: False
        )

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What a client may choose for each episode."""
        return tuple(each.parameter for each in self.fields)

    def judge(self, scope: Mapping[str, Any]) -> tuple[float, bool, bool]:
        """The reward, and whether the episode is terminated or truncated.

        Args:
            scope: ``state``, ``previous`` and ``action`` in JSON, ``step`` from 1 on, ``halted``.

        Raises:
            ExpressionError: an expression has no value.
            Exception: a function of the user's raised it.
        """
        reward = float(self._reward(scope))
        over = bool(scope["halted"])
        terminated = bool(self._terminal(scope)) or (over and self.rules.halted == "terminal")
        truncated = (over and self.rules.halted == "truncated") or (
            0 < self.rules.episode_steps <= scope["step"]
        )
        return reward, terminated, truncated and not terminated


def _function(
    text: str, label: str, state: Struct | None, action: Struct | None
) -> Callable[[Mapping[str, Any]], Any]:
    """What an expression says, or a user's ``module:function``, called with the scope's names."""
    if not _FUNCTION.fullmatch(text.strip()):
        return Expression(text, label, state, action)
    module, _, name = text.strip().partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ExpressionError(f"{label}: '{text}' can not be loaded: {error}", label) from error
    return lambda scope: function(**scope)
