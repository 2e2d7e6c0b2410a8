"""RLlib's sampling loop on arrays, with several splits of the environments on their way."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import tree
from gymnasium.spaces import Box
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import metrics as names
from ray.rllib.utils.metrics import CONNECTOR_PIPELINE_TIMER
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)

from agent.remote_vector_env import RemoteVectorEnv, VectorStep
from agent.sampling.columns import BoolArray, chosen
from agent.sampling.dense import NumpyForward
from agent.sampling.forward import Forward
from agent.sampling.fragment import Fragment, continued, empty
from agent.sampling.observing import on_batches
from agent.sampling.split_state import Sample, SplitState
from agent.vector_infos import by_environment
from farsim import spaces
from farsim.errors import SimulatorFault

#: Names of RLlib's timers.
_INFERENCE, _STEP = names.RLMODULE_INFERENCE_TIMER, names.ENV_STEP_TIMER
_TO_MODULE = (names.ENV_TO_MODULE_CONNECTOR, CONNECTOR_PIPELINE_TIMER)
_TO_ENV = (names.MODULE_TO_ENV_CONNECTOR, CONNECTOR_PIPELINE_TIMER)
#: Of the steps in all running chunks, before and after connectors, which leave them as they are.
_LENGTHS = (
    names.ENV_TO_MODULE_SUM_EPISODES_LENGTH_IN,
    names.ENV_TO_MODULE_SUM_EPISODES_LENGTH_OUT,
)

_EVENTS = ("on_episode_created", "on_episode_start", "on_episode_end")


class Sampler:
    """Samples for an env runner whose connectors work on batches.

    While one split of the environments is on its way, the policy acts on another. What comes out
    does not depend on who is faster: the splits act in turn. With one split, the episodes are
    those that RLlib's own loop would make.

    Args:
        runner: RLlib's env runner: its settings, module, metrics and callbacks are used.
        remote: its environments.
        max_faults_in_a_row: so many failures of an environment without a step in between are an
            error.
    """

    def __init__(self, runner: Any, remote: RemoteVectorEnv, max_faults_in_a_row: int) -> None:
        self._runner, self._remote = runner, remote
        self._max_faults = max_faults_in_a_row
        #: The connectors that it stands in for.
        self.pieces = (
            list(runner._env_to_module.connectors),
            list(runner._module_to_env.connectors),
        )
        self._observing = on_batches(runner._env_to_module.connectors)
        self._action_space = runner.env.single_action_space
        self._forward = self._forward_of(runner)
        self._struct = get_base_struct_from_space(self._action_space)
        #: Whether RLlib's scaling and clipping of actions may do anything: to a Box alone.
        self._has_box = any(isinstance(leaf, Box) for leaf in tree.flatten(self._struct))
        self._called = {event for event in _EVENTS if is_used(runner, event)}
        self._splits = [SplitState(number, rows) for number, rows in enumerate(remote.splits)]
        #: The actions at random of one round, for all environments.
        self._random: Any = None
        #: With so many episodes the sample is complete.
        self._wanted = math.inf
        self._complete: list[SingleAgentEpisode] = []
        self._cut: list[SingleAgentEpisode] = []
        self._steps = 0
        #: Environment steps of all runners before this sample, and how many runners there are.
        self._lifetime, self._runners = 0, 1
        #: By name of a metric, its sum over this sample's steps.
        self._sums: dict[Any, float] = {}
        self._count = 0

    @staticmethod
    def _forward_of(runner: Any) -> Forward:
        if runner.inference == "torch":
            return Forward(runner.module, runner._device)
        seed = runner.config.seed
        place = [runner.worker_index or 0, runner.num_env_steps_sampled_lifetime]
        random = np.random.default_rng(None if seed is None else [seed % 2**64, *place])
        return NumpyForward(runner.module, runner._device, random)

    # -- the loop -------------------------------------------------------------------------

    def sample(
        self,
        num_timesteps: int | None,
        num_episodes: int | None,
        explore: bool,
        random_actions: bool,
        force_reset: bool,
    ) -> Sample:
        """As RLlib's ``_sample``."""
        runner = self._runner
        if self._forward.module is not runner.module:
            self._forward = self._forward_of(runner)
        self._complete, self._cut, self._steps = [], [], 0
        self._wanted = math.inf if num_episodes is None else num_episodes
        self._sums = dict.fromkeys((_INFERENCE, _STEP, _TO_MODULE, _TO_ENV, *_LENGTHS), 0.0)
        self._count = 0
        self._runners = runner.config.num_env_runners or 1
        self._lifetime = runner.num_env_steps_sampled_lifetime // self._runners
        if force_reset or num_episodes is not None or runner._needs_initial_reset:
            self._reset()
        if num_episodes is not None:
            while len(self._complete) < num_episodes:
                for split in self._splits:
                    self._send(split, explore, random_actions)
                for split in self._splits:
                    self._receive(split)
        else:
            while self._steps < (num_timesteps or 0):
                self._pipeline((num_timesteps or 0), explore, random_actions)
        self._log()
        complete = self._complete
        if num_episodes is not None:
            return Sample(complete, [], self._cut, self._steps)
        return Sample(complete, self._chunks(), self._cut, self._steps)

    def _pipeline(self, num_timesteps: int, explore: bool, random_actions: bool) -> None:
        """Goes on until so many steps are done, unless environments fail meanwhile."""
        planned = self._steps
        for split in self._splits:
            planned += self._send(split, explore, random_actions)
        goes_on = True
        while goes_on:
            # All splits take as many steps: whether there is another round is decided before it.
            goes_on = planned < num_timesteps
            for split in self._splits:
                self._receive(split)
                if goes_on:
                    planned += self._send(split, explore, random_actions)

    def _send(self, split: SplitState, explore: bool, random_actions: bool) -> int:
        """Acts on what a split's environments show; how many steps that will be."""
        runner = self._runner
        if random_actions:
            if split.number == 0:
                self._random = runner.env.action_space.sample()
            actions = spaces.take(self._action_space, self._random, split.rows)
            # As RLlib has them in its episodes and in its environments: as they are.
            for_env, extras = actions, {}
        else:
            lifetime = (self._lifetime + self._steps) * self._runners
            started = time.perf_counter()
            extras = self._forward(split.observation, explore, lifetime, split.state)
            thought = time.perf_counter()
            actions = extras.pop(Columns.ACTIONS)
            for_env = extras.pop(Columns.ACTIONS_FOR_ENV, None)
            if for_env is None:
                for_env = self._for_env(actions) if self._has_box else actions
            self._sums[_INFERENCE] += thought - started
            self._sums[_TO_ENV] += time.perf_counter() - thought
            if split.state is not None:
                split.state = extras[Columns.STATE_OUT]
        extras[names.WEIGHTS_SEQ_NO] = split.version(runner._weights_seq_no)
        split.fragment.acted(actions, extras)
        started = time.perf_counter()
        self._remote.step_async(runner.decode(for_env), split.number)
        self._sums[_STEP] += time.perf_counter() - started
        return split.num_envs - split.resting

    def _for_env(self, actions: Any) -> Any:
        config = self._runner.config
        if config.normalize_actions:
            return unsquash_action(actions, self._struct)
        if config.clip_actions:
            return clip_action(actions, self._struct)
        return actions

    def _receive(self, split: SplitState) -> None:
        started = time.perf_counter()
        step = self._remote.receive(split.number)
        self._sums[_STEP] += time.perf_counter() - started
        self._count += 1
        split.fragment.rewarded(step.reward)
        infos = by_environment(step.make_infos(False), split.num_envs)
        if not step.faults and np.count_nonzero(split.faults_in_a_row):
            split.faults_in_a_row[:] = 0
        ended = step.terminated | step.truncated
        if (
            np.count_nonzero(ended) == len(step.final_rows)
            and not split.resting
            and not step.faults
            and not np.count_nonzero(step.absent)
        ):
            self._go_on(split, step, infos)
        else:
            self._take_in(split, step, ended, infos)
        steps = split.fragment.lengths()
        for name in _LENGTHS:
            self._sums[name] += steps

    def _go_on(
        self, split: SplitState, step: VectorStep, infos: list[dict[str, Any]] | None
    ) -> None:
        """A step of all environments, in which the next episode began where one ended."""
        self._steps += split.num_envs
        begun = step.final_rows
        finals = self._finals(step, infos) if len(begun) else {}
        self._see(split, step.observation, infos)
        if not finals:
            return
        for row, final in finals.items():
            if len(self._complete) >= self._wanted:
                break
            self._end(split, row, step, final)
        split.fragment.restart(begun)
        split.forget_state(begun)
        if "on_episode_start" in self._called:
            for row in finals:
                if len(self._complete) >= self._wanted:
                    return
                self._begin(split, row)

    def _take_in(
        self,
        split: SplitState,
        step: VectorStep,
        ended: BoolArray,
        infos: list[dict[str, Any]] | None,
    ) -> None:
        """Any step: some environments may have failed, be absent, or only begin an episode."""
        failed, restarted = np.zeros((2, split.num_envs), np.bool_)
        restarted[step.final_rows] = True
        if step.faults:
            failed[list(step.faults)] = True
            step, infos = self._after_faults(split, step, failed, restarted, infos)
        # Rows without an action of ours before, which are the first of an episode or say nothing
        # yet, and rows that failed.
        no_step = split.over | failed
        self._steps += split.num_envs - int(np.count_nonzero(no_step))
        ended = ended & ~(no_step | step.absent)
        split.over = ended & ~restarted | step.absent
        finals = self._finals(step, infos) if len(step.final_rows) else {}
        self._see(split, step.observation, infos)
        begun = (no_step | restarted) & ~step.absent
        if np.count_nonzero(begun | ended):
            self._end_and_begin(split, step, ended, begun, finals)

    def _end_and_begin(
        self,
        split: SplitState,
        step: VectorStep,
        ended: BoolArray,
        begun: BoolArray,
        finals: dict[int, Any],
    ) -> None:
        for row in np.flatnonzero(ended & begun).tolist():
            if len(self._complete) >= self._wanted:
                break
            self._end(split, row, step, finals[row])
        split.fragment.restart(begun)
        split.forget_state(np.flatnonzero(begun))
        for row in np.flatnonzero(begun | ended).tolist():
            if len(self._complete) >= self._wanted:
                return
            if begun[row]:
                self._begin(split, row)
            else:
                self._end(split, row, step, None)

    def _finals(self, step: VectorStep, infos: list[dict[str, Any]] | None) -> dict[int, Any]:
        """What rows whose next episode has begun showed last, and its info."""
        observation = self._seen_as(step.final_observation)
        rows = step.final_rows.tolist()
        found = {}
        for place, row in enumerate(rows):
            last = chosen(observation, place)
            info = infos[row].pop("final_info", {}) if infos is not None else {}
            found[row] = (last, info)
        return found

    def _see(self, split: SplitState, observation: Any, infos: list[dict[str, Any]] | None) -> None:
        split.observation = self._seen_as(observation)
        split.fragment.see(split.observation, infos)

    def _seen_as(self, observation: Any) -> Any:
        """As networks see it."""
        observation = self._runner.encode(observation)
        if not self._observing:
            return observation
        started = time.perf_counter()
        for connector in self._observing:
            observation = connector(observation)
        self._sums[_TO_MODULE] += time.perf_counter() - started
        return observation

    # -- beginnings and ends --------------------------------------------------------------

    def _reset(self) -> None:
        """Begins new episodes everywhere."""
        runner = self._runner
        runner._ongoing_episodes_for_metrics.clear()
        runner._ongoing_episodes = [None] * runner.num_envs
        space = runner.env.single_observation_space
        for connector in self._observing:
            space = connector.observation_space
        horizon = runner.config.episode_lookback_horizon
        for split in self._splits:
            split.fragment = Fragment(split.num_envs, horizon, space, self._action_space)
            split.faults_in_a_row[:] = 0
            for row in range(split.num_envs):
                self._create(split, row)
        started = time.perf_counter()
        is_seeded = runner._needs_initial_reset and runner._seed is not None
        steps = self._remote.reset_splits(runner._seeds() if is_seeded else None)
        seconds = time.perf_counter() - started
        runner.metrics.log_value(names.ENV_RESET_TIMER, seconds, reduce="ema")
        for split, step in zip(self._splits, steps, strict=True):
            split.begin_state(runner.module)
            split.over = step.absent.copy()
            infos = by_environment(step.make_infos(False), split.num_envs)
            self._see(split, step.observation, infos)
            split.fragment.restart(np.ones(split.num_envs, np.bool_))
        for split in self._splits:
            for row in np.flatnonzero(~split.over).tolist():
                self._begin(split, row)
        runner._needs_initial_reset = False

    def _create(self, split: SplitState, row: int) -> None:
        """An episode that has not begun yet."""
        self._runner._ongoing_episodes[split.rows.start + row] = empty(shown=bool(self._called))
        self._tell("on_episode_created", split, row)

    def _begin(self, split: SplitState, row: int) -> None:
        if "on_episode_start" in self._called:
            observation, info = split.fragment.last(row)
            self._episode(split, row).add_env_reset(observation, dict(info))
            self._tell("on_episode_start", split, row)

    def _end(self, split: SplitState, row: int, step: VectorStep, final: Any) -> None:
        """An episode is over with what was seen last, or ``final`` where the next has begun."""
        episode = self._episode(split, row)
        split.fragment.fill(episode, row, split.fragment.time, final)
        episode.is_terminated = bool(step.terminated[row])
        episode.is_truncated = bool(step.truncated[row])
        self._tell("on_episode_end", split, row)
        self._complete.append(episode)
        self._create(split, row)

    def _after_faults(
        self,
        split: SplitState,
        step: VectorStep,
        failed: BoolArray,
        restarted: BoolArray,
        infos: Any,
    ) -> tuple[VectorStep, Any]:
        """Ends the episodes that failed with their last real step, and begins others."""
        runner = self._runner
        split.faults_in_a_row = np.where(failed, split.faults_in_a_row + 1, 0)
        worst = int(split.faults_in_a_row.argmax())
        if split.faults_in_a_row[worst] >= self._max_faults:
            raise SimulatorFault(
                f"environment {split.rows.start + worst} of env runner {runner.worker_index} "
                f"failed {self._max_faults} times in a row without a step in between; at last: "
                f"{step.faults[worst]}"
            )
        runner.count_faults(len(step.faults))
        for row, reason in step.faults.items():
            self._end_by_fault(split, row, reason)
        for row in np.flatnonzero(failed & restarted).tolist():
            infos[row].pop("fault")
            infos[row].pop("final_info", None)
        waiting = failed & ~restarted
        if not waiting.any():
            return step, infos
        fresh = self._remote.reset_some(waiting, split.number)
        begun = by_environment(fresh.make_infos(False), split.num_envs)
        for row in np.flatnonzero(waiting).tolist():
            infos[row] = begun[row] if begun is not None else {}
        # The other rows of this observation are those of the step.
        return replace(step, observation=fresh.observation, absent=fresh.absent), infos

    def _end_by_fault(self, split: SplitState, row: int, reason: str) -> None:
        if split.over[row]:
            return  # It was to begin in the step that failed.
        episode, fragment = self._episode(split, row), split.fragment
        self._runner._ongoing_episodes_for_metrics.pop(episode.id_, None)
        if fragment.steps(row, fragment.time):
            self._runner.count_cut_episode()
        if fragment.length(row, fragment.time):
            fragment.fill(episode, row, fragment.time)
            episode.is_truncated = True
            episode.custom_data["fault"] = reason
            self._cut.append(episode)
        self._create(split, row)

    def _chunks(self) -> list[SingleAgentEpisode]:
        """What is not handed out yet of the episodes that go on."""
        runner, chunks, shown = self._runner, [], bool(self._called)
        for split in self._splits:
            fragment = split.fragment
            for row in np.flatnonzero(~split.over).tolist():
                episode = self._episode(split, row)
                if not fragment.steps(row, fragment.time):
                    continue
                fragment.fill(episode, row, fragment.time)
                runner._ongoing_episodes_for_metrics[episode.id_].append(episode)
                runner._ongoing_episodes[split.rows.start + row] = continued(episode, shown)
                chunks.append(episode)
            fragment.continue_all(split.over)
        return chunks

    def _episode(self, split: SplitState, row: int) -> SingleAgentEpisode:
        episode: SingleAgentEpisode = self._runner._ongoing_episodes[split.rows.start + row]
        return episode

    def _tell(self, event: str, split: SplitState, row: int) -> None:
        if event in self._called:
            index = split.rows.start + row
            self._runner._make_on_episode_callback(event, index, self._runner._ongoing_episodes)

    # -- metrics --------------------------------------------------------------------------

    def _log(self) -> None:
        """Means over the sample, under RLlib's names."""
        runner, count = self._runner, max(self._count, 1)
        for key, total in self._sums.items():
            runner.metrics.log_value(key, total / count, reduce="ema")
        if self._count:
            runner._log_env_steps(metric=runner._metrics_num_try_env_step, num_steps=self._count)


def is_used(runner: Any, event: str) -> bool:
    """Whether anyone wants to be called at an event."""
    plain = getattr(RLlibCallback, event)
    return bool(getattr(runner.config, f"callbacks_{event}")) or any(
        getattr(type(callback), event) is not plain for callback in runner._callbacks
    )
