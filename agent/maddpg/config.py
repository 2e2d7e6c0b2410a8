"""The configuration of MADDPG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gymnasium.spaces import Dict
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from ray.rllib.utils.from_config import NotProvided

from agent.maddpg.cast import Cast, cast_for, rest_width
from agent.maddpg.learner import MADDPGTorchLearner
from agent.maddpg.module import MADDPGModule
from farsim.errors import InvalidOption

_Schedule = float | Sequence[Sequence[float]]
_UNSET: Any = NotProvided


class MADDPGConfig(AlgorithmConfig):
    """Configures ``MADDPG``.

    Policies are mapped as for every algorithm of RLlib: agents that are mapped to one policy share
    its actor and critic. The mapping must depend on the agent's name only::

        config = (
            MADDPGConfig()
            .environment("my_env")
            .multi_agent(policies={"team"}, policy_mapping_fn=lambda agent, episode: "team")
            .training(actor_lr=1e-3, critic_lr=1e-3)
        )
        algorithm = config.build_algo()

    The environment is one where all agents act at once, and reaches its time limit with
    ``truncateds["__all__"]``.
    """

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        if algo_class is None:
            from agent.maddpg.algorithm import MADDPG

            algo_class = MADDPG
        super().__init__(algo_class=algo_class)
        self.lr: Any = None
        self.actor_lr: _Schedule = 1e-3
        self.critic_lr: _Schedule = 1e-3
        self.tau = 0.01
        self.gamma = 0.95
        self.train_batch_size_per_learner = 512
        self.env_steps_per_update = 25.0
        self.num_steps_sampled_before_learning_starts = 10_000
        self.replay_capacity = 1_000_000
        self.store_replay_in_checkpoints = False
        self.gumbel_temperature = 1.0
        self.actor_logit_regularisation = 1e-3
        self.centralised_critic: bool | list[str] = True
        self.twin_critics = False
        self.grad_clip: Any = 0.5
        self.grad_clip_by = "global_norm"
        self.log_gradients = True
        self.normalize_actions = False
        self.rollout_fragment_length = 25
        self.min_sample_timesteps_per_iteration = 5_000

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        actor_lr: _Schedule = _UNSET,
        critic_lr: _Schedule = _UNSET,
        tau: float = _UNSET,
        env_steps_per_update: float = _UNSET,
        num_steps_sampled_before_learning_starts: int = _UNSET,
        replay_capacity: int = _UNSET,
        store_replay_in_checkpoints: bool = _UNSET,
        gumbel_temperature: float = _UNSET,
        actor_logit_regularisation: float = _UNSET,
        centralised_critic: bool | Collection[str] = _UNSET,
        twin_critics: bool = _UNSET,
        **kwargs: Any,
    ) -> MADDPGConfig:
        """Sets how MADDPG learns.

        Args:
            actor_lr: learning rate of the actors' Adam, or a schedule ``[[step, rate], ...]``.
            critic_lr: that of the critics'.
            tau: how far targets follow their networks in an update, 0 to 1.
            env_steps_per_update: environment steps that are sampled for each update of all
                networks. Fewer: more learning from the same experience, more computing.
            num_steps_sampled_before_learning_starts: environment steps in the replay before the
                first update, also after a restore.
            replay_capacity: environment steps kept.
            store_replay_in_checkpoints: whether a checkpoint holds the replay, hundreds of
                megabytes. If not, a restored run first samples
                ``num_steps_sampled_before_learning_starts`` steps with its policies.
            gumbel_temperature: of the relaxed draws that gradients go through; see
                ``agent.maddpg.actions``.
            actor_logit_regularisation: weight of the mean square of an actor's outputs in its
                loss, which keeps exploration alive.
            centralised_critic: whether critics see all agents' observations and actions, or the
                policies whose critics do; those of the others see what their own agent sees and
                does, which makes them DDPG.
            twin_critics: whether each policy has two critics, and targets take the smaller value.
            kwargs: RLlib's: ``gamma``, ``train_batch_size_per_learner`` (environment steps),
                ``grad_clip`` (by norm, for each network), ...
        """
        super().training(**kwargs)
        given = {
            "actor_lr": actor_lr,
            "critic_lr": critic_lr,
            "tau": tau,
            "env_steps_per_update": env_steps_per_update,
            "num_steps_sampled_before_learning_starts": num_steps_sampled_before_learning_starts,
            "replay_capacity": replay_capacity,
            "store_replay_in_checkpoints": store_replay_in_checkpoints,
            "gumbel_temperature": gumbel_temperature,
            "actor_logit_regularisation": actor_logit_regularisation,
            "centralised_critic": centralised_critic,
            "twin_critics": twin_critics,
        }
        for name, value in given.items():
            if value is not _UNSET:
                setattr(self, name, value)
        if not isinstance(self.centralised_critic, bool):
            self.centralised_critic = sorted(self.centralised_critic)
        return self

    @override(AlgorithmConfig)
    def validate(self) -> None:
        super().validate()
        if self.normalize_actions:
            raise InvalidOption(
                "MADDPG's actors give actions within their bounds: replayed and executed actions "
                "would differ; leave normalize_actions=False in config.environment()",
                "normalize_actions",
            )
        if self.lr is not None:
            raise InvalidOption("set actor_lr and critic_lr instead of lr, and leave it None", "lr")
        if not self.is_multi_agent:
            raise InvalidOption(
                "MADDPG needs config.multi_agent(policies=..., policy_mapping_fn=...)", "policies"
            )
        if self.num_learners > 1:
            raise InvalidOption(
                "MADDPG learns in one place: set num_learners to 0 or 1", "num_learners"
            )
        positive = ("env_steps_per_update", "gumbel_temperature", "tau", "replay_capacity")
        for name in positive:
            if getattr(self, name) <= 0:
                raise InvalidOption(f"{name} must be above 0, not {getattr(self, name)}", name)
        if self.tau > 1:
            raise InvalidOption(f"tau must be at most 1, not {self.tau}", "tau")
        if self.actor_logit_regularisation < 0:
            raise InvalidOption(
                "actor_logit_regularisation must not be negative", "actor_logit_regularisation"
            )
        if self.num_steps_sampled_before_learning_starts > self.replay_capacity:
            raise InvalidOption(
                f"learning would never start: the replay holds {self.replay_capacity} steps, "
                f"fewer than num_steps_sampled_before_learning_starts "
                f"({self.num_steps_sampled_before_learning_starts})",
                "num_steps_sampled_before_learning_starts",
            )
        if not isinstance(self.centralised_critic, bool):
            unknown = set(self.centralised_critic) - set(self.policies)
            if unknown:
                raise InvalidOption(
                    f"centralised_critic names {sorted(unknown)}, which are no policies; there "
                    f"are {sorted(self.policies)}",
                    "centralised_critic",
                )

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MADDPGModule)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[MADDPGTorchLearner]:
        return MADDPGTorchLearner

    @override(AlgorithmConfig)
    def get_multi_rl_module_spec(
        self, *, env: Any = None, spaces: Any = None, inference_only: bool = False, **kwargs: Any
    ) -> MultiRLModuleSpec:
        spec = super().get_multi_rl_module_spec(
            env=env, spaces=spaces, inference_only=inference_only, **kwargs
        )
        cast = self.cast(spaces)
        specs: Any = spec.rl_module_specs
        for module_id, module_spec in specs.items():
            rest = rest_width(cast, module_id) if self.is_centralised(module_id) else 0
            module_spec.model_config = {**module_spec.model_config, "critic_rest": rest}
            if isinstance(module_spec.observation_space, Dict):
                # RLlib takes those of the configuration, which are of all agents.
                module_spec.observation_space = cast[module_id].observation_space
                module_spec.action_space = cast[module_id].action_space
        return spec

    def is_centralised(self, module_id: str) -> bool:
        """Whether a policy's critic sees all agents."""
        if isinstance(self.centralised_critic, bool):
            return self.centralised_critic
        return module_id in self.centralised_critic

    def cast(self, env_spaces: Any = None) -> Cast:
        """The agents of each policy.

        Args:
            env_spaces: as env runners report them.

        Raises:
            InvalidOption: as ``cast_for`` does.
        """
        return cast_for(self, env_spaces)

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | {
            "gumbel_temperature": self.gumbel_temperature,
            "twin_critics": self.twin_critics,
        }
