"""Building RLlib's algorithm for a remote simulator."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import Space
from gymnasium.spaces import Dict
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.policy.policy import PolicySpec

from agent.description import Group
from agent.models.selection import check_algorithm, module_spec, takes_mask
from agent.training import sampling
from agent.training.configuration import InvalidConfiguration, Setting, apply
from agent.training.env_runner import EncodedView, TrainingEnvRunner, TrainingMultiAgentEnvRunner
from agent.training.episode_infos import EpisodeInfos
from agent.training.interface import Interface, Simulators, look_at, masked_space
from agent.training.policies import (
    GROUP,
    InvalidPolicies,
    PolicyMapping,
    PolicyWish,
    map_policies,
)
from agent.training.ray_runtime import quiet
from farsim.options import nearest

__all__ = ["ALGORITHMS", "Interface", "Plan", "Simulators", "build", "look_at", "plan", "restore"]

#: Where the configurations of algorithms that RLlib does not have are.
_OWN_ALGORITHMS = {"MADDPG": "agent.maddpg", "MAPPO": "agent.mappo"}

ALGORITHMS = ("PPO", "APPO", "IMPALA", "DQN", "SAC", *_OWN_ALGORITHMS)

#: Whose learner has one that is faster, with the same results.
_PPO = ("PPO", "MAPPO")

#: Those that learn each policy by itself from RLlib's replay, whose rows are of one agent.
_REPLAYING = ("DQN", "SAC")
_MULTI_AGENT_REPLAY = "MultiAgentPrioritizedEpisodeReplayBuffer"

#: Those that take every simulator for one with several agents.
MULTI_AGENT_ALGORITHMS = ("MADDPG", "MAPPO")


@dataclass(frozen=True)
class Plan:
    """Everything that makes up the algorithm.

    Attributes:
        config: RLlib's, ready to build.
        algo: RLlib's name of the algorithm.
        interface: what it is trained on.
        action_mask: whether observations carry the mask.
        settings: those that differ from RLlib's defaults, by section and name.
        mapping: who decides for whom; None where there is one agent with one policy.
    """

    config: AlgorithmConfig
    algo: str
    interface: Interface
    action_mask: bool
    settings: Mapping[str, Mapping[str, Any]]
    mapping: PolicyMapping | None = None

    @property
    def cpus(self) -> int:
        """That RLlib asks Ray for, at most: a local Ray must have them, or it waits forever."""
        config = self.config
        runners = config.num_env_runners * (1 + math.ceil(config.num_cpus_per_env_runner))
        # Learners may come with aggregator actors.
        return runners + 4 * max(1, config.num_learners)

    def policy_of(self, agent: str) -> str:
        """Who decides for an agent."""
        return DEFAULT_MODULE_ID if self.mapping is None else self.mapping(agent)

    def observed_space(self, group: Group) -> Space[Any]:
        """What an agent of a group observes, with the mask if its network gets it."""
        if self.action_mask and group.has_action_mask:
            return masked_space(group)
        return group.observation_space

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The agents by group; empty if there is just one agent."""
        if self.mapping is None:
            return {}
        return {group.name: group.agents for group in self.interface.groups}

    @property
    def observation_space(self) -> Space[Any]:
        """The simulator's, with the mask if the network gets it; by agent if there are several."""
        if self.mapping is None:
            return self.observed_space(self.interface.groups[0])
        return Dict(
            {
                agent: self.observed_space(group)
                for group in self.interface.groups
                for agent in group.agents
            }
        )

    @property
    def action_space(self) -> Space[Any]:
        """The simulator's; by agent if there are several."""
        if self.mapping is None:
            return self.interface.action_space
        groups = self.interface.groups
        return Dict({agent: group.action_space for group in groups for agent in group.agents})


def plan(
    algo: str,
    simulators: Simulators,
    interface: Interface,
    layers: Sequence[Mapping[str, Mapping[str, Setting]]],
    policies: PolicyWish | None = None,
) -> Plan:
    """RLlib's configuration for a simulator.

    Args:
        algo: one of ``ALGORITHMS``.
        simulators: where to sample.
        interface: what is there.
        layers: settings by section and name; later ones override earlier ones.
        policies: who decides for whom where there are several agents; None for what suits the
            algorithm.

    Raises:
        InvalidConfiguration: RLlib does not take a setting, or not all of them together.
        InvalidOption: a way to sample that several agents do not have.
        InvalidPolicies: the policies do not fit the agents.
        UnsuitableAlgorithm: the algorithm has no such actions.
        UnsupportedSpace: no network can learn from such observations or actions.
    """
    config = _default_config(algo)
    mapping = _mapping(algo, interface, policies)
    masked = [group for group in interface.groups if group.has_action_mask]
    action_mask = bool(masked) and all(takes_mask(algo, group.action_space) for group in masked)
    views = [
        EncodedView.of(_observed(group, action_mask), group.action_space)
        for group in interface.groups
    ]
    for view in views:
        check_algorithm(algo, view.action_space)
    env_config: dict[str, Any] = {
        "addresses": list(simulators.addresses),
        "simulator": simulators.simulator,
        "options": dict(simulators.options),
        "connection": dict(simulators.connection),
        "action_mask_in_observation": action_mask,
    }
    sampling.check(simulators.sampling, mapping is not None)
    env_config |= simulators.sampling
    if simulators.envs_per_session is not None:
        env_config["envs_per_session"] = simulators.envs_per_session
    config.environment(
        env=f"farsim/{interface.simulator}",
        env_config=env_config,
        disable_env_checking=True,
    )
    config.framework("torch")
    config.env_runners(
        num_env_runners=0,
        # RLlib drops samples that come later. Requests have deadlines of their own.
        sample_timeout_s=600.0,
    )
    config.debugging(log_level="ERROR")
    if mapping is None:
        _set_one_agent(config, views[0])
    else:
        _set_agents(config, algo, interface, views, mapping)
    merged: dict[str, dict[str, Setting]] = {}
    for layer in layers:
        for section, members in layer.items():
            merged.setdefault(section, {}).update(members)
    _check_agents(merged.get("multi_agent", {}), mapping)
    apply(config, merged)
    wanted = merged.get("rl_module", {}).get("model_config")
    _set_networks(config, algo, interface, views, mapping, wanted.value if wanted else {})
    settings = {
        section: {name: setting.value for name, setting in members.items()}
        for section, members in merged.items()
    }
    return Plan(config, algo, interface, action_mask, settings, mapping)


def _mapping(algo: str, interface: Interface, policies: PolicyWish | None) -> PolicyMapping | None:
    if len(interface.agents) == 1 and algo not in MULTI_AGENT_ALGORITHMS:
        if policies is not None:
            raise InvalidPolicies(
                f"simulator '{interface.simulator}' has one agent: leave out the policies",
                interface.simulator,
            )
        return None
    return map_policies(policies if policies is not None else GROUP, interface.groups)


def _observed(group: Group, action_mask: bool) -> Space[Any]:
    return masked_space(group) if action_mask and group.has_action_mask else group.observation_space


def _set_one_agent(config: AlgorithmConfig, view: EncodedView) -> None:
    config.environment(observation_space=view.observation_space, action_space=view.action_space)
    config.env_runners(env_runner_cls=TrainingEnvRunner)
    config.callbacks(EpisodeInfos)


def _set_agents(
    config: Any,
    algo: str,
    interface: Interface,
    views: Sequence[EncodedView],
    mapping: PolicyMapping,
) -> None:
    specs = {}
    for group, view in zip(interface.groups, views, strict=True):
        for agent in group.agents:
            specs[mapping(agent)] = PolicySpec(
                observation_space=view.observation_space, action_space=view.action_space
            )
    config.env_runners(env_runner_cls=TrainingMultiAgentEnvRunner)
    if algo in _REPLAYING:
        # The default one is for one agent, and fails with several in the first update.
        kept = config.replay_buffer_config
        config.training(replay_buffer_config={**kept, "type": _MULTI_AGENT_REPLAY})
    config.multi_agent(policies=specs, policy_mapping_fn=mapping)


def _check_agents(settings: Mapping[str, Setting], mapping: PolicyMapping | None) -> None:
    """Raises ``InvalidConfiguration`` for policies to train that are not there."""
    if settings and mapping is None:
        setting = next(iter(settings.values()))
        raise InvalidConfiguration(
            f"{setting.place}: section 'multi_agent' is for simulators with several agents"
        )
    chosen = settings.get("policies_to_train")
    if chosen is None or mapping is None or chosen.value is None:
        return
    if not isinstance(chosen.value, Sequence) or isinstance(chosen.value, str) or not chosen.value:
        raise InvalidConfiguration(
            f"{chosen.place}: policies_to_train is a list of policies, not {chosen.value!r}"
        )
    for name in chosen.value:
        if name not in mapping.policies:
            raise InvalidConfiguration(
                f"{chosen.place}: policies_to_train: of the policies "
                f"({', '.join(mapping.policies)}) none is '{name}'"
                f"{nearest(str(name), mapping.policies)}",
                str(name),
            )


def _set_networks(
    config: AlgorithmConfig,
    algo: str,
    interface: Interface,
    views: Sequence[EncodedView],
    mapping: PolicyMapping | None,
    model_config: Mapping[str, Any],
) -> None:
    """Networks of our own where RLlib's default ones will not do."""
    options = interface.session_options
    specs = {}
    for group, view in zip(interface.groups, views, strict=True):
        spec = module_spec(algo, options, view.observation_space, model_config)
        if spec is None:
            continue
        if mapping is None:
            config.rl_module(rl_module_spec=spec)
            return
        for agent in group.agents:
            specs[mapping(agent)] = spec
    if specs:
        config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))


def build(algorithm_plan: Plan) -> Algorithm:
    """Builds the algorithm, with its environments and networks.

    Raises:
        InvalidConfiguration: settings that RLlib does not take together.
        FarsimError: the environments cannot be had.
    """
    config = algorithm_plan.config.copy(copy_frozen=False)
    quiet(config.log_level)
    try:
        config.validate()
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidConfiguration(f"RLlib refuses the configuration: {error}") from error
    return config.build_algo()


def restore(algorithm: Algorithm, path: Path, steps: int) -> None:
    """Puts an algorithm into the state of a checkpoint, but for its configuration.

    Args:
        algorithm: as it was built.
        path: of the checkpoint.
        steps: environment steps until there.
    """
    algorithm.restore_from_path(str(path.absolute()))

    def set_learning_rates(learner: Any) -> None:
        # RLlib has brought back those of the checkpoint, and would use them for an iteration.
        for optimizer in learner._named_optimizers.values():
            schedule = learner._optimizer_lr_schedules.get(optimizer)
            if schedule is not None:
                learner._set_optimizer_lr(optimizer, lr=schedule.update(timestep=steps))

    learners: Any = algorithm.learner_group
    learners.foreach_learner(set_learning_rates)


def _default_config(algo: str) -> AlgorithmConfig:
    if algo not in ALGORITHMS:
        raise InvalidConfiguration(f"no algorithm '{algo}'{nearest(algo, ALGORITHMS)}", algo)
    # Ray's registry would import every algorithm there is.
    name = _OWN_ALGORITHMS.get(algo, f"ray.rllib.algorithms.{algo.lower()}")
    module = importlib.import_module(name)
    config: AlgorithmConfig = getattr(module, f"{algo}Config")()
    if algo in _PPO:
        from agent.learning import PPOLearner

        config.learners(learner_class=PPOLearner)
    return config
