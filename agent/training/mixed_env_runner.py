"""Runs in which some env runners step remote environments and others take live simulators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gymnasium import Space
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.policy.policy import PolicySpec
from ray.rllib.utils.actor_manager import FaultAwareApply

from agent.live.env_runner import LiveEnvRunner, LiveMultiAgentEnvRunner
from agent.training.env_runner import TrainingEnvRunner, TrainingMultiAgentEnvRunner
from agent.training.iteration import INFO
from farsim import spaces
from farsim.errors import InvalidOption, SpaceMismatch, UnknownOption
from farsim.options import nearest

#: Algorithms that ask each env runner by itself; with the others all wait for the slowest.
_ASYNCHRONOUS = ("APPO", "IMPALA")


@dataclass(frozen=True)
class MixedConfig:
    """RLlib's ``env_config`` for ``MixedEnvRunner``; a plain dict with these keys.

    Attributes:
        remote: ``RemoteEnvConfig`` as a dict.
        live: ``LiveConfig`` as a dict, but for ``first_runner``. Without ``wait_seconds`` nobody is
            waited for where the other env runners would have to wait too.
        live_runners: how many of ``config.num_env_runners`` take live simulators: the last ones.
    """

    remote: Mapping[str, Any]
    live: Mapping[str, Any] = field(default_factory=dict)
    live_runners: int = 1

    @classmethod
    def of(cls, env_config: Mapping[str, Any]) -> MixedConfig:
        """Reads a plain dict.

        Raises:
            UnknownOption: a key that is none of the above; says which is nearest.
            InvalidOption: no remote environments.
        """
        known = [key.name for key in fields(cls)]
        for name in env_config:
            if name not in known:
                raise UnknownOption(
                    f"env_config has no key '{name}'{nearest(str(name), known)}", name
                )
        if not env_config.get("remote"):
            raise InvalidOption("env_config needs 'remote': where environments are", "remote")
        return cls(**env_config)

    def check_runners(self, number: int) -> None:
        """Raises ``InvalidOption`` unless there are runners of both kinds among so many."""
        if not 1 <= self.live_runners < number:
            raise InvalidOption(
                f"{self.live_runners} of {number} env runners can not take live simulators while "
                f"others step remote environments: give at least {max(1, self.live_runners) + 1} "
                "env runners, and 1 or more of them for live simulators",
                "live_runners",
            )


class _Told:
    """Counts what a runner brings under its kind, beside RLlib's numbers of all together."""

    kind: str
    config: Any
    metrics: Any
    _metrics_num_env_steps_sampled: Any

    def _sample(self, **options: Any) -> Any:
        for name in ("steps", "episodes"):  # Shown before the first one.
            self.metrics.log_value((INFO, self.kind, name), 0, reduce="lifetime_sum")
        parent: Any = super()
        return parent._sample(**options)

    def _log_env_steps(self, metric: Any, num_steps: int) -> None:
        parent: Any = super()
        parent._log_env_steps(metric=metric, num_steps=num_steps)
        if metric is self._metrics_num_env_steps_sampled:
            key = (INFO, self.kind, "steps")
            self.metrics.log_value(key, num_steps, reduce="lifetime_sum")

    def _log_episode_metrics(self, length: int, ret: float, *more: Any, **named: Any) -> None:
        parent: Any = super()
        parent._log_episode_metrics(length, ret, *more, **named)
        window = self.config.metrics_num_episodes_for_smoothing
        self.metrics.log_value((INFO, self.kind, "episodes"), 1, reduce="lifetime_sum")
        self.metrics.log_value((INFO, self.kind, "return"), ret, reduce="mean", window=window)


class _Live(_Told, LiveEnvRunner):
    kind = "live"


class _Remote(_Told, TrainingEnvRunner):
    kind = "remote"


class _LiveAgents(_Told, LiveMultiAgentEnvRunner):
    kind = "live"


class _RemoteAgents(_Told, TrainingMultiAgentEnvRunner):
    kind = "remote"


class MixedEnvRunner(FaultAwareApply):
    """An env runner of one kind or the other, by its number; with one agent or several.

    Set it with ``config.env_runners(env_runner_cls=MixedEnvRunner)``; ``env_config`` is a
    ``MixedConfig`` as a dict. Of n env runners the last ``live_runners`` are as
    ``LiveEnvRunner``, the others, and those that evaluate, as ``RemoteEnvRunner``; all of them
    feed the same learner. Everything that RLlib asks of it is done by the runner within.

    In the metrics ``info/live/`` and ``info/remote/`` there are ``steps`` and ``episodes`` so far,
    and ``return``, the mean over the last episodes, of each kind.

    Raises:
        InvalidOption: there are no runners of one of the kinds.
        SpaceMismatch: the simulators' spaces are not those of ``config``; says where.
    """

    def __init__(
        self, *, config: AlgorithmConfig, worker_index: int = 0, num_workers: int = 0, **more: Any
    ) -> None:
        mixed = MixedConfig.of(config.env_config or {})
        own: Any = config.copy(copy_frozen=False)
        is_live = False
        if not own.in_evaluation:
            mixed.check_runners(num_workers)
            remote_runners = num_workers - mixed.live_runners
            is_live = worker_index > remote_runners
        if is_live:
            wait = 1.0 if own.algo_class.__name__ in _ASYNCHRONOUS else 0.001
            own.env_config = {
                "wait_seconds": wait,
                **mixed.live,
                "first_runner": remote_runners + 1,
            }
            own.env_runners(num_envs_per_env_runner=1)
        else:
            own.env_config = dict(mixed.remote)
            if worker_index and not own.in_evaluation:
                # They bring a whole batch without the others, of whom nobody knows how many come.
                num_workers = remote_runners
                own.env_runners(num_env_runners=num_workers)
        kinds: tuple[Any, Any] = (_LiveAgents, _RemoteAgents)
        if not config.is_multi_agent:
            kinds = (_Live, _Remote)
        kind = kinds[0] if is_live else kinds[1]
        self.runner: Any = kind(
            config=own, worker_index=worker_index, num_workers=num_workers, **more
        )
        _check_spaces(config, self.runner.env)

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        return self.runner.apply(func, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "runner":  # It could not be made.
            raise AttributeError(name)
        return getattr(self.runner, name)


def _check_spaces(config: Any, env: Any) -> None:
    """Raises ``SpaceMismatch`` if runners would feed the learner with different things."""
    if env is None:
        return
    if not config.is_multi_agent:
        _check(config.observation_space, env.single_observation_space, "observations")
        _check(config.action_space, env.single_action_space, "actions")
        return
    for agent, observed in env.single_observation_spaces.items():
        policy: Any = config.policies.get(config.policy_mapping_fn(agent, None))
        if isinstance(policy, tuple):  # What comes of it on its way to an actor.
            policy = PolicySpec(*policy)
        if policy is not None:
            _check(policy.observation_space, observed, f"observations of '{agent}'")
            acted = env.single_action_spaces[agent]
            _check(policy.action_space, acted, f"actions of '{agent}'")


def _check(wanted: Space[Any] | None, found: Space[Any], what: str) -> None:
    if wanted is None or wanted == found:
        return
    differences = "; ".join(spaces.differences(wanted, found))
    if differences:
        raise SpaceMismatch(
            f"an env runner's simulators have other {what} than the networks (here: the networks, "
            f"there: the simulators): {differences}",
            what,
        )
