"""Multi-agent deep deterministic policy gradient."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    REPLAY_BUFFER_ADD_DATA_TIMER,
    REPLAY_BUFFER_SAMPLE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from agent.maddpg.config import MADDPGConfig
from agent.maddpg.replay import JointReplay

_REPLAY = "joint_replay"


class MADDPG(Algorithm):
    """Actors that act on what they see, taught by critics that see everything.

    Lowe et al. 2017, see ``agent.maddpg.learner``. Samples from the env runners, adds the steps to
    a replay of joint transitions, makes as many updates as those steps are worth, and gives the
    env runners the new actors.
    """

    config: MADDPGConfig
    # RLlib's are None until ``setup``.
    metrics: Any
    env_runner_group: Any
    learner_group: Any

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> MADDPGConfig:
        return MADDPGConfig()

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.replay = JointReplay(
            self.config.cast(self.spaces), self.config.replay_capacity, self.config.seed
        )
        self._updates_due = 0.0

    @override(Algorithm)
    def training_step(self) -> None:
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled: Any = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                concat=True,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
        episodes, results = sampled
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        with self.metrics.log_time((TIMERS, REPLAY_BUFFER_ADD_DATA_TIMER)):
            added = self.replay.add(episodes)
        if len(self.replay) < max(1, self.config.num_steps_sampled_before_learning_starts):
            return
        self._updates_due += added / self.config.env_steps_per_update
        while self._updates_due >= 1:
            self._updates_due -= 1
            self._update()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group, inference_only=True
            )

    def _update(self) -> None:
        with self.metrics.log_time((TIMERS, REPLAY_BUFFER_SAMPLE_TIMER)):
            batch = self.replay.sample(self.config.train_batch_size_per_learner)
        steps = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                batch=batch,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(steps, default=0)},
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(*args, **kwargs)
        if self.config.store_replay_in_checkpoints:
            state[_REPLAY] = self.replay.get_state()
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if _REPLAY in state:
            self.replay.set_state(state[_REPLAY])
