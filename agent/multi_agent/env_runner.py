"""RLlib's multi-agent env runner on remote simulators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import metrics as names
from ray.rllib.utils.annotations import override

from agent.env_config import RemoteEnvConfig
from agent.env_runner import (
    EPISODES_CUT_BY_FAULT,
    FAULTS,
    MAX_FAULTS_IN_A_ROW,
    seeds_of,
    tell_created,
)
from agent.models import masking
from agent.multi_agent.acting import Acting, ActingGroup
from agent.multi_agent.dict_env import RemoteDictEnv
from agent.multi_agent.recorder import Now, Recorder, policy_of
from agent.multi_agent.tally import StepCounts, Tally
from agent.remote_multi_agent_vector_env import MultiAgentStep, RemoteMultiAgentVectorEnv
from agent.sampling.ahead import SamplesAhead
from agent.sampling.columns import BoolArray
from farsim import spaces as farsim_spaces
from farsim.channel import ConnectionOptions
from farsim.errors import SimulatorFault, Unsupported


@dataclass(frozen=True)
class View:
    """How policies see a group: what they observe and choose, made of the simulator's.

    Attributes:
        observation_space: of one agent, as networks take it.
        action_space: of one agent, as networks take it.
    """

    observation_space: Space[Any]
    action_space: Space[Any]

    def encode(self, observation: Any) -> Any:
        return observation

    def decode(self, action: Any) -> Any:
        return action


class RemoteMultiAgentEnvRunner(SamplesAhead, MultiAgentEnvRunner):
    """Samples from simulators with several agents on other machines, for RLlib's algorithms.

    Set it with ``config.env_runners(env_runner_cls=RemoteMultiAgentEnvRunner)``; ``env_config`` is
    a ``RemoteEnvConfig`` as a dict, ``config.env`` any name, and ``config.multi_agent`` says which
    policy decides for which agent.

    A step of all environments and agents is one request to each server, and one forward pass for
    each policy. Episodes are made of arrays when they end or a sample is cut. For this RLlib's
    default connectors are carried out on whole batches; connectors of your own, recurrent
    networks and ``on_episode_step`` callbacks are refused.

    An episode that the simulator truncates is truncated, and never becomes a terminated one: its
    last observations are there for a value function to look at. No step is lost to resets.

    What is said of faults, lost servers and seeds at ``RemoteEnvRunner`` holds here too.
    """

    env: Any
    module: Any

    @override(MultiAgentEnvRunner)
    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self._check_supported()

    # -- environments ---------------------------------------------------------------------

    @override(MultiAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            self.env.close()
        config = RemoteEnvConfig.of(self.config.env_config or {})
        self.may_sample_ahead(config.sample_ahead)
        own, spare = config.places(
            self.worker_index or 0, self.num_workers or 0, self.config.in_evaluation
        )
        self.remote = RemoteMultiAgentVectorEnv(
            own,
            config.simulator,
            num_envs=self.config.num_envs_per_env_runner,
            options=config.options,
            render_mode=config.render_mode,
            connection=ConnectionOptions.of(config.connection),
            fallback_addresses=spare,
            envs_per_session=config.envs_per_session,
        )
        self._masked = config.action_mask_in_observation
        self._views = [self.view(group) for group in self.remote.groups]
        self._spaces = {
            agent: (view.observation_space, view.action_space)
            for group, view in zip(self.remote.groups, self._views, strict=True)
            for agent in group.agents
        }
        self.env = RemoteDictEnv(self.remote, self._spaces)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        self._resets = 0
        self._faults_in_a_row = np.zeros(self.num_envs, np.int64)
        self._finished: list[dict[str, Any]] = []
        tell_created(self)

    def view(self, group: Any) -> View:
        """How policies see ``group``; subclasses translate between spaces here."""
        return View(self.observed_space(group), group.action_space)

    def observed_space(self, group: Any) -> Space[Any]:
        """The group's observation space, with the action mask if it is to be there."""
        if not (self._masked and group.has_action_mask):
            space: Space[Any] = group.observation_space
            return space
        widths = list(farsim_spaces.mask_widths(group.action_space))
        if len(widths) != 1:
            raise Unsupported(
                "action_mask_in_observation needs one Discrete or MultiDiscrete action; group "
                f"'{group.name}' has {len(widths)}"
            )
        mask = Box(0.0, 1.0, (widths[0],), np.float32)
        return Dict({masking.OBSERVATIONS: group.observation_space, masking.ACTION_MASK: mask})

    def _check_supported(self) -> None:
        config = self.config
        for name in ("env_to_module_connector", "module_to_env_connector"):
            if getattr(config, f"_{name}", None) is not None:
                raise Unsupported(
                    f"{name}: this env runner carries out RLlib's default connectors on whole "
                    "batches and none besides; put the translation into the simulator, into the "
                    "network, or into a subclass's view()",
                    name,
                )
        hooks = [
            callback
            for callback in self._callbacks
            if type(callback).on_episode_step is not RLlibCallback.on_episode_step
        ]
        if hooks or config.callbacks_on_episode_step:
            raise Unsupported(
                "on_episode_step: episodes are put together only when they end; use "
                "on_episode_end or on_sample_end",
                "callbacks",
            )
        for policy, module in self.module.items() if self.module is not None else ():
            if module.is_stateful():
                raise Unsupported(f"policy '{policy}' is recurrent, which is not possible here")

    # -- sampling -------------------------------------------------------------------------

    @override(MultiAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[MultiAgentEpisode]:
        for name in (FAULTS, EPISODES_CUT_BY_FAULT):
            self.metrics.log_value(name, 0, reduce="lifetime_sum")  # Shown before the first one.
        if force_reset or num_episodes is not None or self._needs_initial_reset:
            self._reset()
        self._needs_initial_reset = True  # Unless all goes well.
        self._complete: list[MultiAgentEpisode] = []
        counts = StepCounts()
        by_agents = self.config.count_steps_by == "agent_steps"
        done, steps = 0, 0
        while done < num_episodes if num_episodes is not None else steps < (num_timesteps or 0):
            done += self._step(explore, random_actions, counts)
            steps = counts.agent_steps if by_agents else counts.envs
        samples = self._complete
        if num_episodes is None:
            self._needs_initial_reset = False
            samples = samples + self._hand_out_running()
        else:
            samples = samples[:num_episodes]
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=counts.envs)
        counts.log(self.metrics, done)
        return samples

    def _reset(self) -> None:
        remote = self.remote
        self._resets += 1
        with self.metrics.log_time(names.ENV_RESET_TIMER):
            step = remote.reset(seed=seeds_of(self, self._resets))
        self._recorder = Recorder(
            [group.agents for group in remote.groups],
            self.num_envs,
            self._spaces,
            self.config.episode_lookback_horizon,
        )
        groups = [
            ActingGroup(view.action_space, view.decode, self.num_envs * len(group.agents))
            for group, view in zip(remote.groups, self._views, strict=True)
        ]
        self._waiting = step.absent
        self._acting = Acting(
            groups,
            self.config.normalize_actions,
            self.config.clip_actions,
            self._device,
            seeds_of(self, self._resets)[0],
        )
        self._tally = Tally(remote.groups, self.num_envs)
        self._ongoing_episodes: list[Any] = [None] * self.num_envs
        self._ongoing_episodes_for_metrics.clear()
        for env in range(self.num_envs):
            self._begin(env)
        self._look(step)

    def _look(self, step: MultiAgentStep) -> None:
        """Keeps what agents see now, in the form that networks take."""
        self._now = []
        for group, view, part in zip(self.remote.groups, self._views, step.groups, strict=True):
            self._now.append(
                Now(self._encoded(group, view, part.observation, part.action_masks), part.acting)
            )

    def _encoded(self, group: Any, view: View, observation: Any, masks: Sequence[Any]) -> Any:
        if self._masked and group.has_action_mask:
            mask = np.asarray(masks[0], np.float32)
            observation = {masking.OBSERVATIONS: observation, masking.ACTION_MASK: mask}
        return view.encode(observation)

    def _step(self, explore: bool, random_actions: bool, counts: StepCounts) -> int:
        """One step of all environments; how many episodes ended with it."""
        observations = [now.observation for now in self._now]
        acting = [now.acting for now in self._now]
        if random_actions:
            actions, acts = self._acting.choose_at_random(observations, acting)
        else:
            runners = self.config.num_env_runners or 1
            lifetime = (self.num_env_steps_sampled_lifetime // runners + counts.envs) * runners
            with self.metrics.log_time(names.RLMODULE_INFERENCE_TIMER):
                actions, acts = self._acting.choose(
                    self.module, observations, acting, explore, lifetime
                )
        for act in acts:
            extras = dict(act.extras)
            if extras:
                count = self._acting.rows(act)
                extras[names.WEIGHTS_SEQ_NO] = np.full(count, self._weights_seq_no)
            self._recorder.acted(
                act.group, act.policy, act.rows, act.observation, act.action, extras
            )
        with self.metrics.log_time(names.ENV_STEP_TIMER):
            step = self.remote.step(actions)
        self._log_env_steps(metric=self._metrics_num_try_env_step, num_steps=1)
        self._recorder.stepped(acting, [part.reward for part in step.groups])
        failed = np.zeros(self.num_envs, np.bool_)
        failed[list(step.faults)] = True
        # Those without a server: nothing of theirs counts until their next episode has begun.
        waiting = (self._waiting | step.absent) & ~failed
        self._waiting = step.absent | (failed & ~step.started)
        stepped = self._tally.add(step, acting, failed | waiting)
        policies = [self._acting.counts(number, who) for number, who in enumerate(stepped)]
        counts.add(self.remote.groups, stepped, policies, int((~(failed | waiting)).sum()))
        self._note_ends(step, failed)
        before, ended = self._now, 0
        self._look(step)
        for env in np.flatnonzero(step.started | failed).tolist():
            if waiting[env]:
                pass  # Its episode has begun.
            elif failed[env]:
                self._end_by_fault(env, step.faults[env], before)
            else:
                self._end(env, step)
                ended += 1
            self._begin(env)
        self._check_faults(failed, step.faults)
        return ended

    def _note_ends(self, step: MultiAgentStep, failed: BoolArray) -> None:
        """Tells the recorder which agents have ended, and what they saw last."""
        for number, (group, view, part) in enumerate(
            zip(self.remote.groups, self._views, step.groups, strict=True)
        ):
            over = part.present & (part.terminated | part.truncated)
            over &= ~np.repeat(failed, len(group.agents))
            if not over.any():
                continue
            restarted = np.zeros(len(over), np.bool_)
            restarted[part.final_rows] = True
            final = np.flatnonzero(restarted[part.final_rows] & over[part.final_rows])
            early = np.flatnonzero(over & ~restarted)
            for rows, observation in (
                (part.final_rows[final], (part.final_observation, final)),
                (early, (part.observation, early)),
            ):
                if len(rows):
                    values = farsim_spaces.take(group.observation_space, *observation)
                    masks = (
                        farsim_spaces.full_masks(group.action_space, len(rows))
                        if group.has_action_mask
                        else ()
                    )
                    seen = self._encoded(group, view, values, masks)
                    infos = self._tally.infos.last(number, rows)
                    self._recorder.ended(number, rows, seen, part.terminated[rows], infos)

    # -- episodes -------------------------------------------------------------------------

    def _begin(self, env: int) -> None:
        """A new episode of one environment, with policies for its agents."""
        episode = self._empty(None)
        self._ongoing_episodes[env] = episode
        self._recorder.begin(env)
        self._tally.begin(env)
        for number, group in enumerate(self.remote.groups):
            agents = len(group.agents)
            rows = slice(env * agents, (env + 1) * agents)
            policies = [policy_of(episode, agent) for agent in group.agents]
            self._acting.assign(number, rows, policies)
        for event in ("on_episode_created", "on_episode_start"):
            self._make_on_episode_callback(event, env, self._ongoing_episodes)

    def _empty(self, like: MultiAgentEpisode | None) -> MultiAgentEpisode:
        episode = MultiAgentEpisode(
            id_=like.id_ if like is not None else None,
            observation_space=self.env.single_observation_spaces,
            action_space=self.env.single_action_spaces,
            agent_to_module_mapping_fn=self.config.policy_mapping_fn,
        )
        if like is not None:
            episode._agent_to_module_mapping = like._agent_to_module_mapping
            episode._custom_data = like._custom_data
        return episode

    def _end(self, env: int, step: MultiAgentStep) -> None:
        """An episode is over: it is handed out and counted."""
        episode = self._ongoing_episodes[env]
        terminated = self._terminated(env, step)
        filled = self._recorder.hand_out(env, episode, self._now)
        episode.is_terminated, episode.is_truncated = terminated, not terminated
        length = self._recorder.steps(env)
        self._make_on_episode_callback("on_episode_end", env, self._ongoing_episodes)
        self._ongoing_episodes_for_metrics.pop(episode.id_, None)
        self._finished.append(self._tally.of_episode(env, episode, length))
        if filled:
            self._complete.append(episode)

    def _terminated(self, env: int, step: MultiAgentStep) -> bool:
        """Whether the world came to an end, rather than that someone stopped it."""
        for group, part in zip(self.remote.groups, step.groups, strict=True):
            agents = len(group.agents)
            if part.truncated[env * agents : (env + 1) * agents].any():
                return False
        return True

    def _end_by_fault(self, env: int, reason: str, before: Sequence[Now]) -> None:
        """An episode ends as truncated with its last real step."""
        episode = self._ongoing_episodes[env]
        self.metrics.log_value(FAULTS, 1, reduce="lifetime_sum")
        until = self._recorder.time - 1
        if self._recorder.steps(env) > 1:
            self.metrics.log_value(EPISODES_CUT_BY_FAULT, 1, reduce="lifetime_sum")
        self._ongoing_episodes_for_metrics.pop(episode.id_, None)
        if self._recorder.hand_out(env, episode, before, until):
            episode.is_truncated = True
            episode.custom_data["fault"] = reason
            for part in episode.agent_episodes.values():
                part.is_truncated = not part.is_terminated
            self._complete.append(episode)

    def _check_faults(self, failed: BoolArray, faults: Mapping[int, str]) -> None:
        self._faults_in_a_row = np.where(failed, self._faults_in_a_row + 1, 0)
        worst = int(self._faults_in_a_row.argmax())
        if self._faults_in_a_row[worst] >= MAX_FAULTS_IN_A_ROW:
            raise SimulatorFault(
                f"environment {worst} of env runner {self.worker_index} failed "
                f"{MAX_FAULTS_IN_A_ROW} times in a row without a step in between; at last: "
                f"{faults[worst]}"
            )

    def _hand_out_running(self) -> list[MultiAgentEpisode]:
        """The chunks of episodes that go on, at the end of a sample."""
        chunks = []
        for env, running in enumerate(self._ongoing_episodes):
            chunk = self._empty(running)
            if self._recorder.hand_out(env, chunk, self._now):
                self._ongoing_episodes_for_metrics[chunk.id_].append(chunk)
                chunks.append(chunk)
        self._recorder.cut()
        return chunks

    # -- metrics --------------------------------------------------------------------------

    @override(MultiAgentEnvRunner)
    def get_metrics(self) -> Any:
        window = self.config.metrics_num_episodes_for_smoothing
        for episode in self._finished:
            for key, value in episode.pop("infos").items():
                self.metrics.log_value(key, value, reduce="mean", window=window)
            self._log_episode_metrics(**episode)
        self._finished.clear()
        metrics = self.metrics.reduce()
        self.sample_next()
        return metrics
