"""RLlib's PPO with decentralised actors and a centralised value function.

C. Yu, A. Velu, E. Vinitsky, J. Gao, Y. Wang, A. Bayen, Y. Wu, "The Surprising Effectiveness of PPO
in Cooperative Multi-Agent Games", NeurIPS 2022, https://arxiv.org/abs/2103.01955.
"""

from __future__ import annotations

from typing import Any

from gymnasium.spaces import Dict
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.connectors.common import AddObservationsFromEpisodesToBatch
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from agent.maddpg.cast import cast_for
from agent.maddpg.module import observation_size
from agent.mappo.connector import AddOthersObservations
from agent.mappo.module import MAPPOModule
from farsim.errors import InvalidOption


class MAPPOConfig(PPOConfig):
    """``PPOConfig`` whose policies' values see the observations of all agents.

    Policies are mapped as everywhere in RLlib, by the agent's name only; agents that share a policy
    share its value function, which sees the agent in question first.
    """

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class=algo_class or MAPPO)

    @override(PPOConfig)
    def validate(self) -> None:
        super().validate()
        if not self.is_multi_agent:
            raise InvalidOption(
                "MAPPO needs config.multi_agent(policies=..., policy_mapping_fn=...)", "policies"
            )

    @override(PPOConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MAPPOModule)

    @override(PPOConfig)
    def get_multi_rl_module_spec(
        self, *, env: Any = None, spaces: Any = None, inference_only: bool = False, **kwargs: Any
    ) -> MultiRLModuleSpec:
        spec = super().get_multi_rl_module_spec(
            env=env, spaces=spaces, inference_only=inference_only, **kwargs
        )
        cast = cast_for(self, spaces)
        agents = {name: list(role.agents) for name, role in cast.items()}
        sizes = {name: observation_size(role.observation_space) for name, role in cast.items()}
        everyone = sum(len(agents[name]) * sizes[name] for name in cast)
        specs: Any = spec.rl_module_specs
        for module_id, module_spec in specs.items():
            module_spec.model_config = {
                **module_spec.model_config,
                "agents": agents,
                "others_width": everyone - sizes[module_id],
            }
            if isinstance(module_spec.observation_space, Dict):
                # RLlib takes those of the configuration, which are of all agents.
                module_spec.observation_space = cast[module_id].observation_space
                module_spec.action_space = cast[module_id].action_space
        return spec

    @override(PPOConfig)
    def build_learner_connector(self, *args: Any, **kwargs: Any) -> Any:
        pipeline: Any = super().build_learner_connector(*args, **kwargs)
        pipeline.insert_after(AddObservationsFromEpisodesToBatch, AddOthersObservations())
        return pipeline


class MAPPO(PPO):
    """PPO with ``MAPPOConfig``."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> MAPPOConfig:
        return MAPPOConfig()
