"""What RLlib's own pipeline answers, episode by episode, from RLlib's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode


class Reference:
    """RLlib's documented way to act with a checkpoint: modules, connectors and episodes.

    Args:
        folder: what ``Algorithm.save_to_path`` wrote.
        steps: environment steps of the training.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.module = RLModule.from_checkpoint(folder / "learner_group" / "learner" / "rl_module")
        runner = folder / "env_runner"
        self.before = EnvToModulePipeline.from_checkpoint(runner / "env_to_module_connector")
        self.behind = ModuleToEnvPipeline.from_checkpoint(runner / "module_to_env_connector")
        self._steps = steps
        for piece in self.before.connectors:
            if isinstance(piece, MeanStdFilter):
                piece._update_stats = False  # As RLlib says to do in production.

    def single(self, observations: list[Any], greedy: bool, seed: int = 0) -> list[dict[str, Any]]:
        """Plays one episode through these observations; what came out at each."""
        module = self.module
        if isinstance(module, MultiRLModule):
            module = module["default_policy"]
        episode = SingleAgentEpisode(
            observation_space=self.before.input_observation_space,
            action_space=self.before.input_action_space,
        )
        episode.add_env_reset(observations[0])
        answers = []
        torch.manual_seed(seed)
        for index in range(len(observations)):
            outputs = self._forward(module, [episode], greedy)
            outputs.setdefault(Columns.ACTIONS_FOR_ENV, outputs[Columns.ACTIONS])
            answers.append({key: value[0] for key, value in outputs.items()})
            if index + 1 < len(observations):
                last = answers[-1]
                extras = {
                    key: value
                    for key, value in last.items()
                    if key not in (Columns.ACTIONS, Columns.ACTIONS_FOR_ENV)
                }
                episode.add_env_step(
                    observations[index + 1],
                    last[Columns.ACTIONS],
                    0.0,
                    extra_model_outputs=extras,
                )
        return answers

    def multi(
        self, observations: list[Mapping[str, Any]], greedy: bool
    ) -> list[dict[str, dict[str, Any]]]:
        """Plays one episode of several agents; actions for the environment, by agent."""
        answers = []
        for seen in observations:
            # Fresh each time: nothing here remembers.
            episode = MultiAgentEpisode(
                agent_to_module_mapping_fn=self._mapping(),
                observation_space=self.before.input_observation_space,
                action_space=self.before.input_action_space,
            )
            episode.add_env_reset(observations=dict(seen), infos={agent: {} for agent in seen})
            outputs = self._forward(self.module, [episode], greedy)
            answers.append({key: dict(value[0]) for key, value in outputs.items()})
        return answers

    def _mapping(self) -> Any:
        from tests.agent.policy.trained import policy_of

        return policy_of

    def _forward(self, module: Any, episodes: list[Any], greedy: bool) -> dict[str, Any]:
        shared: dict[str, Any] = {}
        to_module = self.before(
            episodes=episodes, batch={}, explore=not greedy, rl_module=module, shared_data=shared
        )
        with torch.no_grad():
            if greedy:
                outputs = module.forward_inference(to_module)
            else:
                outputs = module.forward_exploration(to_module, t=self._steps)
        return dict(
            self.behind(
                batch=outputs,
                episodes=episodes,
                explore=not greedy,
                rl_module=module,
                shared_data=shared,
            )
        )
