"""A policy through RLlib's own connectors: for checkpoints with connectors of a user's own.

RLlib's pieces work on one episode object after another, which costs several times what arrays do;
but only they know what somebody else's connector does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import tree
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from agent.policy.network import Network, Outputs, States
from agent.policy.recipe import NotPortable, Pipeline, PolicyRecipe
from farsim import spaces
from farsim.errors import FarsimError, InternalError


class PipelineNetwork(Network):
    """``Network`` whose observations and actions go through RLlib's connectors.

    Every call gives a connector an episode that holds one observation, and for a recurrent
    network its state: what came before it is not kept. A connector that asks for it is refused,
    when the network is tried for the first time.

    Args:
        recipe: with a ``pipeline``.
        module: as at ``Network``.
        steps: as at ``Network``.
    """

    def __init__(self, recipe: PolicyRecipe, module: RLModule, steps: int = 0) -> None:
        super().__init__(recipe, module, steps)
        if recipe.pipeline is None:
            raise NotPortable(f"policy '{recipe.name}' has no connectors of its own", recipe.name)
        self._pipeline: Pipeline = recipe.pipeline
        for piece in self._pipeline.before.connectors:
            if isinstance(piece, MeanStdFilter):
                # Serving does not move it on, as RLlib advises for production.
                piece._update_stats = False

    def act(
        self,
        observations: Any,
        masks: NDArray[np.float32] | None = None,
        states: States | None = None,
        greedy: bool = True,
    ) -> Outputs:
        try:
            return self._through(observations, masks, states, greedy)
        except FarsimError:
            raise
        except Exception as error:  # It is the user's code.
            raise InternalError(
                f"policy '{self.recipe.name}': the connectors {', '.join(self._pipeline.own)} "
                f"failed: {type(error).__name__}: {error}"
            ) from error

    def _through(
        self,
        observations: Any,
        masks: NDArray[np.float32] | None,
        states: States | None,
        greedy: bool,
    ) -> Outputs:
        before, behind = self._pipeline.before, self._pipeline.behind
        space: Space[Any] = before.input_observation_space
        encoded = self.encoded(observations, masks)
        count = _length(encoded)
        seen = spaces.unbatch(space, encoded, count)
        episodes = [self._episode(one, states, row) for row, one in enumerate(seen)]
        shared: dict[str, Any] = {}
        batch = before(
            episodes=episodes,
            batch={},
            explore=not greedy,
            rl_module=self.module,
            shared_data=shared,
        )
        with torch.inference_mode():
            if greedy:
                outputs = self.module.forward_inference(batch)
            else:
                outputs = self.module.forward_exploration(batch, t=self.trained_steps)
        found = behind(
            batch=dict(outputs),
            episodes=episodes,
            explore=not greedy,
            rl_module=self.module,
            shared_data=shared,
        )
        acted: Space[Any] = before.input_action_space
        chosen = spaces.batch(acted, list(found[Columns.ACTIONS]))
        if Columns.ACTIONS_FOR_ENV in found:
            actions = spaces.batch(acted, list(found[Columns.ACTIONS_FOR_ENV]))
        else:
            actions = chosen
        state_out = _stacked(found.get(Columns.STATE_OUT)) if self.is_recurrent else None
        return Outputs(
            actions=actions if self.encoding is None else self.encoding.decode(actions),
            chosen=chosen,
            states=self.pack(state_out) if self.is_recurrent else None,
            logp=_stacked(found.get(Columns.ACTION_LOGP)),
            inputs=_stacked(found.get(Columns.ACTION_DIST_INPUTS)),
            state_out=state_out,
        )

    def _episode(self, observation: Any, states: States | None, row: int) -> SingleAgentEpisode:
        before = self._pipeline.before
        episode = _OneMoment(
            observation_space=before.input_observation_space,
            action_space=before.input_action_space,
        )
        episode.add_env_reset(observation)
        if states is not None and self.is_recurrent:
            # RLlib takes the state from the last step, so there has to be one.
            state = self.unpack(torch.tensor(states[row : row + 1]))
            episode.add_env_step(
                observation,
                before.input_action_space.sample(),
                0.0,
                extra_model_outputs={Columns.STATE_OUT: tree.map_structure(_first, state)},
            )
        return episode


class _OneMoment(SingleAgentEpisode):
    """An episode of which nothing is known but what is seen now."""

    def get_observations(self, indices: Any = None, **kwargs: Any) -> Any:
        if indices != -1:
            raise _looks_back("observations")
        return super().get_observations(indices, **kwargs)

    def get_actions(self, *_: Any, **__: Any) -> Any:
        raise _looks_back("actions")

    def get_rewards(self, *_: Any, **__: Any) -> Any:
        raise _looks_back("rewards")

    def get_infos(self, *_: Any, **__: Any) -> Any:
        raise _looks_back("infos")


def _looks_back(what: str) -> NotPortable:
    return NotPortable(
        f"a connector of this checkpoint asks for earlier {what} of the episode, or for infos, and "
        "a served policy has only the observation that it is to act on",
        what,
    )


def _first(part: torch.Tensor) -> NDArray[Any]:
    return part[0].numpy(force=True)


def _length(batch: Any) -> int:
    return len(tree.flatten(batch)[0])


def _stacked(rows: Sequence[Any] | None) -> Any:
    """One batched structure of single ones; None of none."""
    if rows is None:
        return None
    return tree.map_structure(lambda *parts: np.stack([np.asarray(part) for part in parts]), *rows)
