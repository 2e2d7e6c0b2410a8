"""Which network a simulator gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agent.deeprm.observation import CompactObservation, is_deeprm
from agent.models import masking
from farsim.errors import FarsimError

#: Algorithms whose learners ask a module for no more than logits and values.
ACTOR_CRITICS = ("PPO", "APPO", "IMPALA")


class UnsuitableAlgorithm(FarsimError, ValueError):
    """An algorithm that cannot act in the simulator's action space."""


def check_algorithm(algo: str, action_space: Space[Any]) -> None:
    """Raises an error if the algorithm has no actions of this kind.

    Args:
        algo: RLlib's name of the algorithm.
        action_space: as networks choose from it.

    Raises:
        UnsuitableAlgorithm: an algorithm of RLlib.
        UnsupportedSpace: one of our own.
    """
    if algo in ("MADDPG", "MAPPO"):
        from agent.maddpg.actions import action_code

        action_code(action_space, temperature=1.0)
    if algo == "DQN" and not isinstance(action_space, Discrete):
        wanted = "a single choice (Discrete)"
    elif algo == "SAC" and not isinstance(action_space, (Box, Discrete)):
        wanted = "numbers (Box) or a single choice (Discrete)"
    else:
        return
    raise UnsuitableAlgorithm(
        f"{algo} needs {wanted} for an action, and the simulator has {action_space}: use one of "
        f"{', '.join(ACTOR_CRITICS)}",
        algo,
    )


def takes_mask(algo: str, action_space: Space[Any]) -> bool:
    """Whether a module of ours applies the simulator's action mask for this algorithm."""
    return algo in ACTOR_CRITICS and isinstance(action_space, (Discrete, MultiDiscrete))


def module_spec(
    algo: str,
    session_options: Mapping[str, Any],
    observation_space: Space[Any],
    model_config: Mapping[str, Any],
) -> RLModuleSpec | None:
    """The network for a simulator; None for RLlib's default.

    Args:
        algo: RLlib's name of the algorithm.
        session_options: the value of every parameter.
        observation_space: encoded, with the action mask if there is one.
        model_config: what the user wants of the network.
    """
    if algo not in ACTOR_CRITICS:
        return None
    layout = _deeprm_layout(session_options, observation_space)
    if layout is not None:
        from agent.models.deeprm import DeepRMModule

        config = {**model_config, "layout": layout.to_options()}
        return RLModuleSpec(module_class=DeepRMModule, model_config=config)
    if masking.is_masked(observation_space):
        from agent.models.masked import MaskedModule

        return RLModuleSpec(module_class=MaskedModule, model_config=dict(model_config) or None)
    return None


def _deeprm_layout(
    session_options: Mapping[str, Any], observation_space: Space[Any]
) -> CompactObservation | None:
    if not is_deeprm(session_options) or session_options["observation"] != "compact":
        return None
    layout = CompactObservation.from_options(session_options)
    return layout if layout.describes(masking.unmasked_space(observation_space)) else None
