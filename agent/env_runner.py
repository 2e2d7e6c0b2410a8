"""RLlib's single-agent env runner on remote simulators."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RESET_TIMER, ENV_STEP_TIMER

from agent.env_config import RemoteEnvConfig
from agent.remote_vector_env import RemoteVectorEnv
from agent.sampling.ahead import SamplesAhead
from agent.sampling.episode_metrics import EpisodeMetrics
from agent.sampling.observing import obstacle
from agent.sampling.sampler import Sampler, is_used
from farsim.channel import ConnectionOptions
from farsim.errors import SimulatorFault, Unsupported

logger = logging.getLogger(__name__)

#: Metrics, summed over the run: rows that were no transition, and episodes that they ended.
FAULTS = "faults"
EPISODES_CUT_BY_FAULT = "episodes_cut_by_fault"

#: An environment that fails so often without one good step in between is broken, not unlucky.
MAX_FAULTS_IN_A_ROW = 10


class RemoteEnvRunner(SamplesAhead, EpisodeMetrics, SingleAgentEnvRunner):
    """Samples from simulators on other machines, for every RLlib algorithm with single agents.

    Set it with ``config.env_runners(env_runner_cls=RemoteEnvRunner)``; ``env_config`` is a
    ``RemoteEnvConfig`` as a dict, and ``config.env`` any name.

    A row that is a fault never becomes a transition: the episode ends as truncated with its last
    real step and is returned with the sample, unless it has no step there, and the environment
    begins another one. Such episodes count in the metrics ``episodes_cut_by_fault`` and
    ``faults`` but not in those of complete episodes, whose returns they would distort, and
    ``on_episode_end`` is not called for them; their ``custom_data["fault"]`` says what happened.

    Servers that die are waited for or replaced, by ``RemoteVectorEnv``; only when none comes back
    within ``recovery_seconds`` does ``sample`` raise ``ServerUnavailable``. RLlib's own
    ``restart_failed_sub_environments`` is of no effect. With ``envs_per_session``, environments
    without a server yield nothing until they have one again, while the others go on.

    Sampling works on the batch of all environments, and cuts episodes out of its arrays when they
    end or the sample does: the same episodes as RLlib's own runner would have made, field by field,
    of the same actions. Of RLlib's connectors, ``FlattenObservations`` and ``MeanStdFilter`` can
    work on batches. Where another one, or a callback ``on_episode_step``, needs every episode at
    every step, the runner says so once, and goes the slower way of RLlib's own.

    Seeds differ for each runner and environment, and depend on ``config.seed``, on the steps
    sampled before (a run that is resumed does not repeat its first episodes) and, in evaluation
    runners, on nothing else: they evaluate on the same episodes each time.
    """

    #: Set where RLlib's own loop has turned out to be needed.
    _needs_next_step = False
    _has_said_why = False

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            self.env.close()
        config = RemoteEnvConfig.of(self.config.env_config or {})
        self.may_sample_ahead(config.sample_ahead)
        own, spare = config.places(
            self.worker_index or 0, self.num_workers or 0, self.config.in_evaluation
        )
        #: What computes actions.
        self.inference = config.inference
        self.remote = self._connect(config, own, spare, self._modes(config))
        self.env = DictInfoToList(self.remote)
        self._sampler: Sampler | None = None
        self._absent = np.zeros(self.env.num_envs, np.bool_)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        self._resets = 0
        self._cut_episodes: list[SingleAgentEpisode] = []
        self._faults_in_a_row = np.zeros(self.num_envs, np.int64)
        tell_created(self)

    def _connect(
        self,
        config: RemoteEnvConfig,
        own: Sequence[str],
        spare: Sequence[str],
        modes: Sequence[AutoresetMode],
    ) -> RemoteVectorEnv:
        """Opens the environments, in the first of ``modes`` that the simulator offers."""
        num_envs = self.config.num_envs_per_env_runner
        try:
            return RemoteVectorEnv(
                own,
                config.simulator,
                num_envs=num_envs,
                options=config.options,
                autoreset_mode=modes[0],
                render_mode=config.render_mode,
                connection=ConnectionOptions.of(config.connection),
                fallback_addresses=spare,
                action_mask_in_observation=config.action_mask_in_observation,
                envs_per_session=config.envs_per_session,
                splits=config.splits,
            )
        except Unsupported:
            # That it is for the mode, servers need not say.
            if len(modes) == 1:
                raise
            return self._connect(config, own, spare, modes[1:])

    def _modes(self, config: RemoteEnvConfig) -> list[AutoresetMode]:
        if config.autoreset_mode:
            return [AutoresetMode(config.autoreset_mode)]
        settings = self.config
        own_connectors = (settings._env_to_module_connector, settings._module_to_env_connector)
        if (
            own_connectors != (None, None)
            or config.envs_per_session is not None
            or self._episode_objects()
            or self._needs_next_step
        ):
            return [AutoresetMode.NEXT_STEP]
        return [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]

    def _episode_objects(self) -> str:
        """What needs RLlib's episode objects at every step, besides connectors; "" for nothing."""
        if not self.config.episodes_to_numpy:
            return "episodes_to_numpy=False"
        if is_used(self, "on_episode_step"):
            return "the callback on_episode_step"
        return ""

    def encode(self, observation: Any) -> Any:
        """What networks see, of a batch of what environments show."""
        return observation

    def decode(self, actions: Any) -> Any:
        """What environments do, of a batch of what networks choose."""
        return actions

    @override(SingleAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        for name in (FAULTS, EPISODES_CUT_BY_FAULT):
            self.metrics.log_value(name, 0, reduce="lifetime_sum")  # Shown before the first one.
        try:
            if self._works_on_batches():
                return self._sample_batches(
                    num_timesteps, num_episodes, explore, random_actions, force_reset
                )
            return self._sample_episodes(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
        except BaseException:
            # Some episodes may lack the step that others have.
            self._needs_initial_reset = True
            raise

    def _works_on_batches(self) -> bool:
        """Whether nothing asks for every episode at every step."""
        pipelines: tuple[Any, Any] = (self._env_to_module, self._module_to_env)
        pieces = (pipelines[0].connectors, pipelines[1].connectors)
        if self._sampler is not None and self._sampler.pieces == pieces:
            return True
        reason = self._episode_objects() or obstacle(*pieces)
        if reason:
            if self._sampler is not None or not self._has_said_why:
                logger.warning(
                    "sampling goes through RLlib's episode objects, several times slower than on "
                    "batches: %s needs them",
                    reason,
                )
                self._has_said_why, self._needs_initial_reset = True, True
            self._sampler = None
            if self.remote.metadata["autoreset_mode"] is not AutoresetMode.NEXT_STEP:
                self._needs_next_step = True
                self.make_env()
            return False
        self._sampler = Sampler(self, self.remote, MAX_FAULTS_IN_A_ROW)
        self._needs_initial_reset = True
        return True

    def _sample_batches(self, num_timesteps: int | None, *how: Any) -> list[SingleAgentEpisode]:
        assert self._sampler is not None
        found = self._sampler.sample(num_timesteps, *how)
        if num_timesteps is None:
            self._needs_initial_reset = True
        self.keep_for_metrics(found.complete)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=found.steps)
        self._increase_sampled_metrics(found.steps, len(found.complete))
        return found.complete + found.chunks + found.cut

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> Any:
        metrics = super().get_metrics()
        self.sample_next()
        return metrics

    def _sample_episodes(self, **how: Any) -> list[SingleAgentEpisode]:
        self._cut_episodes = []
        samples = super()._sample(**how)
        if self.episodes_to_numpy:
            return samples + [episode.to_numpy() for episode in self._cut_episodes]
        return samples + self._cut_episodes

    @override(SingleAgentEnvRunner)
    def _try_env_reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        env: Any = self.env
        with self.metrics.log_time(ENV_RESET_TIMER):
            results = env.reset(seed=None if seed is None else self._seeds(), options=options)
        self._note_absent(results[1])
        return results

    @override(SingleAgentEnvRunner)
    def _try_env_step(self, actions: Any) -> Any:
        env: Any = self.env
        with self.metrics.log_time(ENV_STEP_TIMER):
            results = env.step(actions)
        self._log_env_steps(metric=self._metrics_num_try_env_step, num_steps=1)
        infos = results[4]
        # Their rows say nothing still, or are the first of a new episode.
        for row in np.flatnonzero(self._absent).tolist():
            self._new_episode(row)
        self._note_absent(infos)
        faults = {row: info["fault"] for row, info in enumerate(infos) if "fault" in info}
        failed = np.zeros(self.num_envs, np.bool_)
        failed[list(faults)] = True
        self._faults_in_a_row[~failed] = 0
        return self._after_faults(faults, failed, results) if faults else results

    def _after_faults(
        self, faults: Mapping[int, str], failed: np.ndarray[Any, Any], results: Any
    ) -> Any:
        """Ends the episodes that failed, and makes their rows the first of new ones."""
        self._faults_in_a_row[failed] += 1
        worst = int(self._faults_in_a_row.argmax())
        if self._faults_in_a_row[worst] >= MAX_FAULTS_IN_A_ROW:
            raise SimulatorFault(
                f"environment {worst} of env runner {self.worker_index} failed "
                f"{MAX_FAULTS_IN_A_ROW} times in a row without a step in between; at last: "
                f"{faults[worst]}"
            )
        self.count_faults(len(faults))
        for row, reason in faults.items():
            self._end_episode(row, reason)
        _, rewards, terminateds, truncateds, infos = results
        # The other rows of this observation are those of the step.
        observations, reset_infos = self._try_env_reset(options={"reset_mask": failed})
        truncateds[failed] = False
        for row in faults:
            infos[row] = reset_infos[row]
        return observations, rewards, terminateds, truncateds, infos

    def count_faults(self, count: int) -> None:
        """So many rows were no transition."""
        self.metrics.log_value(FAULTS, count, reduce="lifetime_sum")

    def count_cut_episode(self) -> None:
        """A fault ended an episode that had begun."""
        self.metrics.log_value(EPISODES_CUT_BY_FAULT, 1, reduce="lifetime_sum")

    def _note_absent(self, infos: Sequence[Mapping[str, Any]]) -> None:
        self._absent = np.array([bool(info.get("absent")) for info in infos])

    @override(SingleAgentEnvRunner)
    def _make_on_episode_callback(self, which: str, idx: int, episodes: Any) -> None:
        if not self._absent[idx]:  # Else it is a placeholder, and no episode.
            super()._make_on_episode_callback(which, idx, episodes)

    def _end_episode(self, row: int, reason: str) -> None:
        """Ends an episode with its last real step; the next one waits for its first observation."""
        episode = self._ongoing_episodes[row]
        if episode is None or not episode.is_reset:
            return  # It was to begin in the step that failed.
        self._ongoing_episodes_for_metrics.pop(episode.id_, None)
        if episode.t:
            self.count_cut_episode()
        if len(episode):
            episode.is_truncated = True
            episode.custom_data["fault"] = reason
            self._cut_episodes.append(episode)
        self._new_episode(row)

    def _seeds(self) -> list[int]:
        """One for each environment, for a reset that RLlib wants to be seeded."""
        self._resets += 1
        return seeds_of(self, self._resets)


def tell_created(runner: Any) -> None:
    """Calls RLlib's ``on_environment_created`` for what ``make_env`` has made."""
    make_callback(
        "on_environment_created",
        callbacks_objects=runner._callbacks,
        callbacks_functions=runner.config.callbacks_on_environment_created,
        kwargs={
            "env_runner": runner,
            "metrics_logger": runner.metrics,
            "env": runner.env.unwrapped,
            "env_context": EnvContext(
                runner.config.env_config,
                worker_index=runner.worker_index or 0,
                num_workers=runner.num_workers,
            ),
        },
    )


def seeds_of(runner: Any, resets: int) -> list[int]:
    """Seeds for all environments of an env runner, for its reset number ``resets``.

    They depend on ``config.seed``, the runner, and the steps sampled before; in evaluation runners
    on nothing else.
    """
    config = runner.config
    entropy = [int(config.seed or 0) % 2**64, int(config.in_evaluation), runner.worker_index or 0]
    if not config.in_evaluation:
        entropy += [int(runner.num_env_steps_sampled_lifetime), resets - 1]
    if _was_restarted():
        # Whatever episodes this actor had before it died must not come again.
        entropy.append(secrets.randbits(64))
    return np.random.SeedSequence(entropy).generate_state(runner.num_envs).tolist()


def _was_restarted() -> bool:
    """Whether this is a Ray actor that has died before."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and context.was_current_actor_reconstructed
