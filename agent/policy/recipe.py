"""All that it takes to act as a checkpoint's policies do, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium import Space

from agent.policy.preprocessing import Arrays, Step
from farsim.errors import FarsimError


class NotPortable(FarsimError, ValueError):
    """Something in a checkpoint that cannot be written down without pickle."""


@dataclass(frozen=True)
class ModuleRecipe:
    """A network.

    Attributes:
        module_class: an RLlib ``RLModule``.
        catalog_class: RLlib's maker of its parts; None for the class's own choice.
        observation_space: what it takes.
        action_space: what it chooses from.
        model_config: its settings, in JSON's types.
        weights: its state, without what only training needs.
    """

    module_class: type
    catalog_class: type | None
    observation_space: Space[Any]
    action_space: Space[Any]
    model_config: Mapping[str, Any]
    weights: Arrays


@dataclass(frozen=True)
class Pipeline:
    """RLlib's own connectors, as they were unpickled.

    Attributes:
        before: from environment to network.
        behind: from network to environment.
        own: the classes that are the user's, by name.
    """

    before: Any
    behind: Any
    own: tuple[str, ...]

    @property
    def note(self) -> str:
        """What is said of it wherever the policy is named."""
        return f"through RLlib's own connector pipeline for {', '.join(self.own)}"


@dataclass(frozen=True)
class PolicyRecipe:
    """A network with what stands before and behind it.

    Attributes:
        name: of the policy.
        module: the name of its network.
        agents: that it acts for; empty for any.
        observation_space: the simulator's; with the mask as ``agent.models.masking`` has it, if
            the network gets it.
        action_space: the simulator's.
        is_encoded: whether ``agent.models.encoding`` stands between simulator and connectors.
        steps: what connectors do to observations, in order.
        unsquashes: whether actions of -1..1 are stretched to the space's bounds.
        clips: whether actions are clipped to the space's bounds, where they are not unsquashed.
        pipeline: what takes the place of ``steps``, ``unsquashes`` and ``clips`` where connectors
            are the user's own; else None. It has no form without pickle.
    """

    name: str
    module: str
    agents: tuple[str, ...]
    observation_space: Space[Any]
    action_space: Space[Any]
    is_encoded: bool
    steps: tuple[Step, ...]
    unsquashes: bool
    clips: bool
    pipeline: Pipeline | None = None


@dataclass(frozen=True)
class Recipe:
    """The policies of one checkpoint.

    Attributes:
        modules: the networks, by name.
        policies: at least one.
        iteration: RLlib's training iterations until here.
        steps: environment steps until here; sampled exploration may depend on them.
        origin: the checkpoint's folder, for people.
        algo: the algorithm's name, for people.
    """

    modules: Mapping[str, ModuleRecipe]
    policies: Sequence[PolicyRecipe]
    iteration: int
    steps: int
    origin: str
    algo: str = ""
