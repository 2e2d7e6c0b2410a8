"""Building RLlib's algorithm for a remote simulator."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from agent.models import masking
from agent.models.encoding import Encoding
from agent.models.selection import check_algorithm, module_spec, takes_mask
from agent.session import Session
from agent.training.configuration import InvalidConfiguration, Setting, apply
from agent.training.env_runner import TrainingEnvRunner
from agent.training.episode_infos import EpisodeInfos
from agent.training.ray_runtime import quiet
from farsim import spaces as farsim_spaces
from farsim.channel import ConnectionOptions
from farsim.errors import Unsupported
from farsim.options import nearest

ALGORITHMS = ("PPO", "APPO", "IMPALA", "DQN", "SAC")


@dataclass(frozen=True)
class Simulators:
    """Where to sample, and what.

    Attributes:
        addresses: of the servers.
        simulator: its name there.
        options: the parameters that were chosen.
        connection: fields of ``ConnectionOptions``.
    """

    addresses: Sequence[str]
    simulator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Interface:
    """What a simulator with these options looks like.

    Attributes:
        simulator: its name on the server.
        session_options: the value of every parameter.
        observation_space: of one environment, without the mask.
        action_space: of one environment.
        has_action_mask: whether it says which actions are allowed.
    """

    simulator: str
    session_options: Mapping[str, Any]
    observation_space: Space[Any]
    action_space: Space[Any]
    has_action_mask: bool

    def masked_observation_space(self) -> Space[Any]:
        """With the mask, as ``RemoteVectorEnv`` puts it there."""
        (width,) = farsim_spaces.mask_widths(self.action_space)
        mask = Box(0.0, 1.0, (width,), np.float32)
        return Dict({masking.OBSERVATIONS: self.observation_space, masking.ACTION_MASK: mask})


def look_at(simulators: Simulators) -> Interface:
    """Opens a session for a moment, to see what is there.

    Raises:
        Unsupported: the simulator has several agents.
        FarsimError: what the server answered.
    """
    connection = ConnectionOptions.of(simulators.connection)
    with Session.open(
        simulators.addresses[0],
        simulators.simulator,
        1,
        simulators.options,
        connection=connection,
    ) as session:
        groups = session.groups
        if len(groups) != 1 or len(groups[0].agents) != 1:
            agents = [agent for group in groups for agent in group.agents]
            raise Unsupported(
                f"simulator '{session.description.name}' has {len(agents)} agents "
                f"({', '.join(agents)}); only simulators with one agent can be trained on"
            )
        return Interface(
            session.description.name,
            dict(session.options),
            groups[0].observation_space,
            groups[0].action_space,
            groups[0].has_action_mask,
        )


@dataclass(frozen=True)
class Plan:
    """Everything that makes up the algorithm.

    Attributes:
        config: RLlib's, ready to build.
        algo: RLlib's name of the algorithm.
        interface: what it is trained on.
        encoding: between the simulator's spaces and the network's.
        action_mask: whether observations carry the mask.
        settings: those that differ from RLlib's defaults, by section and name.
    """

    config: AlgorithmConfig
    algo: str
    interface: Interface
    encoding: Encoding
    action_mask: bool
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def cpus(self) -> int:
        """That RLlib asks Ray for, at most: a local Ray must have them, or it waits forever."""
        config = self.config
        runners = config.num_env_runners * (1 + math.ceil(config.num_cpus_per_env_runner))
        # Learners may come with aggregator actors.
        return runners + 4 * max(1, config.num_learners)

    @property
    def observation_space(self) -> Space[Any]:
        """The simulator's, with the mask if the network gets it."""
        if self.action_mask:
            return self.interface.masked_observation_space()
        return self.interface.observation_space


def plan(
    algo: str,
    simulators: Simulators,
    interface: Interface,
    layers: Sequence[Mapping[str, Mapping[str, Setting]]],
) -> Plan:
    """RLlib's configuration for a simulator.

    Args:
        algo: one of ``ALGORITHMS``.
        simulators: where to sample.
        interface: what is there.
        layers: settings by section and name; later ones override earlier ones.

    Raises:
        InvalidConfiguration: RLlib does not take a setting, or not all of them together.
        UnsuitableAlgorithm: the algorithm has no such actions.
        UnsupportedSpace: no network can learn from such observations or actions.
    """
    check_algorithm(algo, interface.action_space)
    action_mask = interface.has_action_mask and takes_mask(algo, interface.action_space)
    observed = interface.masked_observation_space() if action_mask else interface.observation_space
    encoding = Encoding(observed, interface.action_space)
    config = _default_config(algo)
    config.environment(
        env=f"farsim/{interface.simulator}",
        env_config={
            "addresses": list(simulators.addresses),
            "simulator": simulators.simulator,
            "options": dict(simulators.options),
            "connection": dict(simulators.connection),
            "action_mask_in_observation": action_mask,
        },
        observation_space=encoding.observation_space,
        action_space=encoding.action_space,
        disable_env_checking=True,
    )
    config.framework("torch")
    config.env_runners(
        env_runner_cls=TrainingEnvRunner,
        num_env_runners=0,
        # RLlib drops samples that come later. Requests have deadlines of their own.
        sample_timeout_s=600.0,
    )
    config.callbacks(EpisodeInfos)
    config.debugging(log_level="ERROR")
    merged: dict[str, dict[str, Setting]] = {}
    for layer in layers:
        for section, members in layer.items():
            merged.setdefault(section, {}).update(members)
    apply(config, merged)
    model_config = merged.get("rl_module", {}).get("model_config")
    spec = module_spec(
        algo,
        interface.session_options,
        encoding.observation_space,
        model_config.value if model_config is not None else {},
    )
    if spec is not None:
        config.rl_module(rl_module_spec=spec)
    settings = {
        section: {name: setting.value for name, setting in members.items()}
        for section, members in merged.items()
    }
    return Plan(config, algo, interface, encoding, action_mask, settings)


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
    module = importlib.import_module(f"ray.rllib.algorithms.{algo.lower()}")
    config: AlgorithmConfig = getattr(module, f"{algo}Config")()
    return config
