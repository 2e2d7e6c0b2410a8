"""What RLlib's env-to-module connectors do, on the batch of all environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tree
from gymnasium import Space
from ray.rllib.connectors import common, env_to_module, module_to_env
from ray.rllib.connectors.common.flatten_observations import FlattenObservations

from agent.policy.preprocessing import Flatten
from agent.sampling.normalizing import can_normalize, normalized

#: The pieces that RLlib adds by itself, and that ``forward`` and ``Sampler`` stand in for.
_DEFAULTS = {
    "env_to_module_connector": (
        common.AddObservationsFromEpisodesToBatch,
        common.AddTimeDimToBatchAndZeroPad,
        common.AddStatesFromEpisodesToBatch,
        common.BatchIndividualItems,
        common.NumpyToTensor,
    ),
    "module_to_env_connector": (
        module_to_env.GetActions,
        common.TensorToNumpy,
        module_to_env.UnBatchToIndividualItems,
        module_to_env.RemoveSingleTsTimeRankFromBatch,
        module_to_env.NormalizeAndClipActions,
        module_to_env.ListifyDataForVectorEnv,
    ),
}


class Observing(Protocol):
    """A connector on batches.

    Attributes:
        observation_space: of one environment, after it.
    """

    observation_space: Space[Any]

    def __call__(self, observation: Any) -> Any:
        """A nest of arrays [environments, ...] of what a nest of arrays becomes."""


class _Flattening:
    def __init__(self, connector: Any) -> None:
        self.observation_space: Space[Any] = connector.observation_space
        removed = tuple(connector._keys_to_remove)
        self._flatten = Flatten(connector.input_observation_space, removed)

    def __call__(self, observation: Any) -> Any:
        return self._flatten.apply(observation)


class _Normalizing:
    """The connector's own filter, which takes one environment after the other into account."""

    def __init__(self, connector: Any) -> None:
        self.observation_space: Space[Any] = connector.observation_space
        self._connector = connector

    def __call__(self, observation: Any) -> Any:
        connector = self._connector
        if connector._filters is None:
            connector._init_new_filters()
        update, rows = connector._update_stats, connector._filters[None]
        if can_normalize(rows, observation):
            return normalized(rows, observation, update)
        leaves = tree.flatten(observation)
        after = [np.empty_like(leaf) for leaf in leaves]
        for row in range(len(leaves[0])):
            seen = rows(tree.map_structure(lambda leaf: leaf[row], observation), update=update)  # noqa: B023
            for leaf, value in zip(after, tree.flatten(seen), strict=True):
                leaf[row] = value
        return tree.unflatten_as(observation, after)


_KNOWN: dict[Any, Callable[[Any], Observing]] = {
    FlattenObservations: _Flattening,
    env_to_module.MeanStdFilter: _Normalizing,
}


def on_batches(env_to_module_pieces: Sequence[Any]) -> list[Observing]:
    """The connectors before RLlib's own, on batches; only after ``obstacle`` found none."""
    own = env_to_module_pieces[: -len(_DEFAULTS["env_to_module_connector"])]
    return [_KNOWN[type(piece)](piece) for piece in own]


def obstacle(env_to_module_pieces: Sequence[Any], module_to_env_pieces: Sequence[Any]) -> str:
    """The first connector that works on episodes rather than on batches; "" if there is none."""
    kinds = [type(piece) for piece in env_to_module_pieces]
    defaults = list(_DEFAULTS["env_to_module_connector"])
    count = len(kinds) - len(defaults)
    if count < 0 or kinds[count:] != defaults:
        own = next((kind for kind in kinds if kind not in defaults and kind not in _KNOWN), None)
        return own.__name__ if own is not None else "an env-to-module pipeline of your own"
    for piece in env_to_module_pieces[:count]:
        if type(piece) not in _KNOWN or piece._multi_agent:
            return type(piece).__name__
        if getattr(piece, "_as_learner_connector", False):
            return f"{type(piece).__name__} as a learner connector"
    kinds = [type(piece) for piece in module_to_env_pieces]
    if kinds != list(_DEFAULTS["module_to_env_connector"]):
        known = _DEFAULTS["module_to_env_connector"]
        own = next((kind for kind in kinds if kind not in known), None)
        return own.__name__ if own is not None else "a module-to-env pipeline of your own"
    return ""
