"""RLlib's train batch for PPO, made from the arrays of whole episodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import tree
from numpy.typing import NDArray
from ray.rllib.connectors import common
from ray.rllib.connectors import learner as connectors
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from agent.learning.advantages import standardized, value_targets

#: Only where there are several.
_OF_AGENTS = common.AgentToModuleMapping

#: What RLlib's pipeline for PPO is made of, unless someone adds to it.
_PIPELINE = (
    connectors.AddOneTsToEpisodesAndTruncate,
    common.AddObservationsFromEpisodesToBatch,
    connectors.AddColumnsFromEpisodesToTrainBatch,
    common.AddTimeDimToBatchAndZeroPad,
    common.AddStatesFromEpisodesToBatch,
    _OF_AGENTS,
    common.BatchIndividualItems,
    common.NumpyToTensor,
    connectors.GeneralAdvantageEstimation,
)

#: Columns of recurrent networks, which no batch has here.
_STATES = (Columns.STATE_IN, Columns.STATE_OUT)

#: One more row of rewards.
_NOTHING = np.zeros(1)


class NotInArrays(Exception):
    """These episodes are for RLlib's own pipeline; says why."""


def check_pipeline(pipeline: Any) -> None:
    """Raises ``NotInArrays`` unless the learner connectors are RLlib's default ones for PPO."""
    kinds = [type(connector) for connector in pipeline.connectors] if pipeline is not None else []
    wanted = [
        kind for kind in _PIPELINE if kind is not common.AgentToModuleMapping or kind in kinds
    ]
    if kinds != wanted:
        others = [kind.__name__ for kind in kinds if kind not in _PIPELINE]
        raise NotInArrays(
            f"learner connectors of your own ({', '.join(others)})"
            if others
            else "other learner connectors than the default ones"
        )


def steps_of(episodes: Sequence[Any]) -> int:
    """Environment steps in the batch as RLlib counts them, with the row after each episode."""
    steps = sum(map(len, episodes))
    return steps if isinstance(episodes[0], MultiAgentEpisode) else steps + len(episodes)


def train_batch(episodes: Sequence[Any], modules: Any, pipeline: Any, device: Any) -> Any:
    """The columns of each module, as RLlib's learner connectors make them of the same episodes.

    After each episode there is a row more, that of its last observation, for the value that goes on
    from there; ``LOSS_MASK`` is False in it. Unlike RLlib's connectors this leaves the episodes as
    they are.

    Args:
        episodes: single-agent or multi-agent ones, in arrays.
        modules: by name, a ``MultiRLModule``.
        pipeline: that ``check_pipeline`` has accepted.
        device: for the tensors.

    Returns:
        By module and column, nests of tensors [rows, ...].

    Raises:
        NotInArrays: an episode is not in arrays, or its columns are not as long as it is.
    """
    estimation = pipeline.connectors[-1]
    batch = {}
    for name, own in _by_module(episodes).items():
        module = modules[name]
        if not isinstance(module, ValueFunctionAPI):
            raise NotInArrays(f"module '{name}' has no values")
        arrays = _columns(own)
        columns = convert_to_torch_tensor(arrays, device=device)
        with torch.no_grad():
            of_rows: Any = module.compute_values(columns)
            values = of_rows.cpu().numpy()
        targets = value_targets(
            values,
            columns[Columns.REWARDS].cpu().numpy(),
            arrays[Columns.TERMINATEDS],
            arrays[Columns.TRUNCATEDS],
            estimation.gamma,
            estimation.lambda_,
        )
        found = {
            Postprocessing.ADVANTAGES: standardized(targets - values),
            Postprocessing.VALUE_TARGETS: targets,
        }
        batch[name] = {**columns, **convert_to_torch_tensor(found, device=device)}
    return batch


def _by_module(episodes: Sequence[Any]) -> dict[str, list[SingleAgentEpisode]]:
    if not isinstance(episodes[0], MultiAgentEpisode):
        return {DEFAULT_MODULE_ID: list(episodes)}
    found: dict[str, list[SingleAgentEpisode]] = {}
    # RLlib's order of agents is that of a set.
    for own in ConnectorV2.single_agent_episode_iterator(
        list(episodes), agents_that_stepped_only=False
    ):
        found.setdefault(str(own.module_id), []).append(own)
    return found


def _columns(episodes: Sequence[SingleAgentEpisode]) -> dict[str, Any]:
    lengths = [len(episode) for episode in episodes]
    if not all(lengths):
        raise NotInArrays("an episode without a step")
    ends = np.cumsum(np.add(lengths, 1)) - 1
    rows = int(ends[-1]) + 1
    mask = np.ones(rows, np.bool_)
    mask[ends] = False
    terminated, truncated = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    terminated[ends - 1] = [episode.is_terminated for episode in episodes]
    # A piece of an episode that goes on ends for this batch.
    truncated[ends - 1] = [e.is_truncated or not e.is_terminated for e in episodes]
    columns = {
        Columns.LOSS_MASK: mask,
        Columns.TERMINATEDS: terminated,
        Columns.TRUNCATEDS: truncated,
        Columns.OBS: _joined((e.observations for e in episodes), lengths, has_last=True),
        Columns.ACTIONS: _joined((e.actions for e in episodes), lengths),
        Columns.REWARDS: _joined((e.rewards for e in episodes), lengths, last=_NOTHING),
    }
    extras = episodes[0].extra_model_outputs.keys()
    if any(episode.extra_model_outputs.keys() != extras for episode in episodes):
        raise NotInArrays("episodes with different outputs of the network")
    for name in extras:
        if name not in columns and name not in _STATES:
            outputs = (episode.extra_model_outputs[name] for episode in episodes)
            columns[name] = _joined(outputs, lengths)
    return columns


def _joined(
    buffers: Iterable[InfiniteLookbackBuffer],
    lengths: Sequence[int],
    *,
    has_last: bool = False,
    last: NDArray[Any] | None = None,
) -> Any:
    """What is in the buffers from their episodes' first step on, one after the other.

    Args:
        buffers: of one column, by episode.
        lengths: of the episodes.
        has_last: whether there is one more row than the episode has steps already.
        last: that row, where it is not the last one once again.
    """
    nest: Any = None
    parts: list[list[NDArray[Any]]] = []
    for buffer, length in zip(buffers, lengths, strict=True):
        if not buffer.finalized:
            raise NotInArrays("episodes that are lists of steps")
        data, begin = buffer.data, buffer.lookback
        leaves = [data] if isinstance(data, np.ndarray) else tree.flatten(data)
        if not parts:
            nest = data
            parts = [[] for _ in leaves]
        for part, leaf in zip(parts, leaves, strict=True):
            if leaf.dtype == object or len(leaf) != begin + length + has_last:
                raise NotInArrays("episodes whose columns are not as long as they are")
            part.append(leaf[begin:] if begin else leaf)
            if not has_last:
                part.append(leaf[-1:] if last is None else last)
    joined = [np.concatenate(part) for part in parts]
    return joined[0] if isinstance(nest, np.ndarray) else tree.unflatten_as(nest, joined)
