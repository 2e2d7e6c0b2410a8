"""DeepRM as a batch simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium.spaces import Dict, Discrete
from numpy.typing import NDArray

from simserver.sims.deeprm import state
from simserver.sims.deeprm.cluster import Cluster, as_slice
from simserver.sims.deeprm.episodes import EpisodeSource
from simserver.sims.deeprm.layout import CompactLayout
from simserver.sims.deeprm.metrics import episode_infos
from simserver.sims.deeprm.parameters import PARAMETERS, Settings
from simserver.sims.deeprm.render import render
from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    BoolArray,
    Group,
    GroupBatch,
    Info,
    IntArray,
)

_T = TypeVar("_T", bound=np.generic)


class DeepRM(BatchSimulator):
    """Multi-resource cluster scheduling (Mao et al., HotNets 2016).

    Jobs arrive at a cluster, wait in slots and behind them in a backlog, and are placed into the
    cluster's free time steps. An action names a slot: its job is placed at the earliest time where
    it fits, and time stands still. The void action ``num_nw``, or a slot whose job does not fit,
    lets time go by. The reward is minus the sum over all jobs in the system of 1 / length, so that
    with ``end=all_done`` the return is minus the sum of the jobs' slowdowns.

    Observation: the compact vector float32 [(R + 1) * (H + M) + 1], the image float32 [H, width],
    or a Dict of both. Action: Discrete(M + 1), masked as ``action_mask`` says. Parameters and
    quirks are those of ``parameters.py``; behaviour is that of the original program, exactly with
    ``mode=reference``.

    Infos, at every step: ``time`` (int32, the clock), ``backlog`` and ``running`` (int32, jobs
    there), ``time_advanced`` (bool, whether the action let time go by); when an episode ends, those
    of ``metrics.py``.
    """

    description = "DeepRM: schedule jobs on a cluster with several resources"
    parameters = PARAMETERS
    render_modes = ("rgb_array",)
    can_save_state = True

    def __init__(self, num_envs: int, **options: Any) -> None:
        self.num_envs = num_envs
        self._settings = settings = Settings.from_options(options)
        self._source = EpisodeSource(settings, num_envs, options)
        self._cluster = Cluster(settings, num_envs)
        self._actions = np.zeros(num_envs, np.int64)
        self._arrays = {"actions": self._actions, **self._source.state, **self._cluster.state}
        layout = CompactLayout(settings)
        self._scale = np.float32(1) / layout.scale() if settings.normalize_compact else None
        self.groups = (
            Group(
                self._observation_space(layout),
                Discrete(settings.num_actions),
                has_action_mask=settings.action_mask != "none",
            ),
        )
        placements = settings.simu_len - 1
        moves = settings.simu_len
        if settings.end == "all_done":
            moves = settings.episode_max_length + 1
        self.max_episode_steps = moves + placements
        if settings.action_limit:
            self.max_episode_steps = min(self.max_episode_steps, settings.action_limit)

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        start = self._source.start(envs, seeds, options)
        self._cluster.begin(envs, start.lengths, start.sizes, start.palettes)
        self._actions[envs] = 0
        group = self._look(envs, np.zeros(len(envs), np.bool_))
        return Batch([group], started=envs, episode_options=start.options)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        outcome = self._cluster.step(envs, actions[0])
        limit = self._settings.action_limit
        if limit:
            self._actions[envs] += 1
            outcome.truncated |= (self._actions[envs] >= limit) & ~outcome.terminated
        group = self._look(envs, outcome.time_advanced)
        group.reward = outcome.reward
        group.terminated, group.truncated = outcome.terminated, outcome.truncated
        ended = (outcome.terminated | outcome.truncated).nonzero()[0]
        if ended.size:
            for name, values in episode_infos(self._cluster, envs[ended]).items():
                group.infos[name] = Info(values, ended)
        return Batch([group])

    def render(self, envs: IntArray) -> Sequence[NDArray[np.uint8]]:
        return [render(self._settings, self._cluster, env) for env in envs.tolist()]

    def save_state(self, envs: IntArray) -> list[bytes]:
        return [state.dump(self._settings, self._arrays, env) for env in envs.tolist()]

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        loaded = [state.parse(self._settings, self._arrays, data) for data in states]
        for env, values in zip(envs.tolist(), loaded, strict=True):
            for name, array in self._arrays.items():
                array[env] = values[name]
        self._cluster.jobs.loaded()
        return Batch([self._look(envs, np.zeros(len(envs), np.bool_))])

    def _observation_space(self, layout: CompactLayout) -> Any:
        compact, image = layout.space(), self._cluster.image
        if image is None:
            return compact
        if self._settings.observation == "image":
            return image.space()
        return Dict({"compact": compact, "image": image.space()})

    def _look(self, envs: IntArray, time_advanced: BoolArray) -> GroupBatch:
        rows = as_slice(envs)
        cluster, settings = self._cluster, self._settings
        infos = {
            "time": Info(cluster.time[rows].astype(np.int32)),
            "backlog": Info(cluster.backlog[rows].astype(np.int32)),
            "running": Info(cluster.running.count(rows).astype(np.int32)),
            "time_advanced": Info(time_advanced),
        }
        if settings.masks_in_info:
            for kind in ("fits_now", "fits_horizon"):
                infos[kind] = Info(cluster.mask(kind, rows)[:, :-1])
        masks: tuple[BoolArray, ...] = ()
        if settings.action_mask != "none":
            masks = (_read_only(cluster.mask(settings.action_mask, rows)),)
        return GroupBatch(self._observe(rows), action_masks=masks, infos=infos)

    def _observe(self, rows: IntArray | slice) -> BatchedValue:
        image = self._cluster.image
        pixels = None if image is None else _read_only(image.pixels[rows])
        if self._settings.observation == "image":
            return pixels
        compact = self._cluster.compact[rows]
        compact = _read_only(compact) if self._scale is None else compact * self._scale
        return compact if pixels is None else {"compact": compact, "image": pixels}


def _read_only(array: NDArray[_T]) -> NDArray[_T]:
    """The array itself: it may be a view of the simulator's state, which is not to be written."""
    array.flags.writeable = False
    return array
