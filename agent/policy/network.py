"""One policy on batches: from the simulator's observations to its actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import tree
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from agent.models import masking
from agent.models.encoding import Encoding
from agent.policy.recipe import ModuleRecipe, PolicyRecipe
from agent.training.checkpoint import InvalidCheckpoint

#: The state of recurrent networks, of one row: all its numbers side by side, [S].
States = NDArray[np.float32]


def build_module(recipe: ModuleRecipe, device: str = "cpu") -> RLModule:
    """The network, with its weights, without what only training needs.

    Raises:
        InvalidCheckpoint: class, settings and weights do not go together.
    """
    try:
        module = recipe.module_class(
            observation_space=recipe.observation_space,
            action_space=recipe.action_space,
            inference_only=True,
            model_config=dict(recipe.model_config),
            catalog_class=recipe.catalog_class,
        )
        found = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        given = {name: tuple(np.shape(value)) for name, value in recipe.weights.items()}
        wrong = sorted(name for name in found if found[name] != given.get(name))
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"{len(wrong)} weights are missing or of another shape, first '{name}': "
                f"{given.get(name, 'missing')}, not {found[name]}"
            )
        module.set_state(dict(recipe.weights))
    except Exception as error:  # Networks raise anything while they are built.
        raise InvalidCheckpoint(
            f"{recipe.module_class.__name__} does not go together with what the checkpoint says: "
            f"{type(error).__name__}: {error}"
        ) from error
    module.eval()
    return cast("RLModule", module.to(device))


@dataclass(frozen=True)
class Outputs:
    """What a policy said to n observations.

    Attributes:
        actions: for the simulator: a batched value of its action space.
        chosen: as the network chose them, before they are scaled and shifted; a batched value.
        states: float32 [n, S] of a recurrent policy, else None.
        logp: float32 [n], of actions that were drawn, where the network has a distribution.
        inputs: float32 [n, ...] of that distribution.
        state_out: RLlib's own form of the states, or None.
    """

    actions: Any
    chosen: Any
    states: States | None
    logp: NDArray[np.float32] | None
    inputs: Any
    state_out: Any


class Network:
    """A policy as it was trained: encoding, connectors, network, distribution, and back.

    Does the same as RLlib's pipeline of connectors does episode by episode, on arrays.

    Args:
        recipe: what stands around the network.
        module: the network; several policies may share one.
        steps: environment steps that it was trained for, which exploration may depend on.

    Attributes:
        is_recurrent: whether states go from one call to the next.
        state_size: how many numbers a state has.
        initial_state: that an episode begins with, float32 [S].
        trained_steps: environment steps that it was trained for.
    """

    def __init__(self, recipe: PolicyRecipe, module: RLModule, steps: int = 0) -> None:
        self._recipe = recipe
        self._module = module
        self.trained_steps = steps
        self._device = next(self.parameters()).device
        acted: Space[Any] = recipe.action_space
        self._encoding: Encoding | None = None
        if recipe.is_encoded:
            self._encoding = Encoding(recipe.observation_space, recipe.action_space)
            acted = self._encoding.action_space
        self._action_struct = get_base_struct_from_space(acted)
        self.has_action_mask = recipe.is_encoded and masking.is_masked(recipe.observation_space)
        self.observation_space = (
            masking.unmasked_space(recipe.observation_space)
            if self.has_action_mask
            else recipe.observation_space
        )
        self.action_space = recipe.action_space
        self.is_recurrent = bool(module.is_stateful())
        self._initial = module.get_initial_state() if self.is_recurrent else {}
        self._shapes = [tuple(part.shape) for part in tree.flatten(self._initial)]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.state_size = sum(self._sizes)
        self.initial_state = self.pack(tree.map_structure(_one_row, self._initial))[0]

    @property
    def recipe(self) -> PolicyRecipe:
        return self._recipe

    @property
    def encoding(self) -> Encoding | None:
        """Between the simulator and the connectors, if there is one."""
        return self._encoding

    @property
    def module(self) -> RLModule:
        return self._module

    def parameters(self) -> Iterator[torch.Tensor]:
        """The weights."""
        return iter(cast("torch.nn.Module", self._module).parameters())

    def act(
        self,
        observations: Any,
        masks: NDArray[np.float32] | None = None,
        states: States | None = None,
        greedy: bool = True,
    ) -> Outputs:
        """Actions for n observations, in one forward pass.

        Args:
            observations: a batched value of ``observation_space``.
            masks: float32 [n, actions], with ``has_action_mask``; several factors side by side.
            states: float32 [n, S], with ``is_recurrent``.
            greedy: takes the likeliest action, else draws as in training.
        """
        with torch.inference_mode():
            batch = {Columns.OBS: self._tensors(self.preprocess(observations, masks))}
            if self.is_recurrent:
                batch[Columns.OBS] = tree.map_structure(lambda x: x[:, None], batch[Columns.OBS])
                batch[Columns.STATE_IN] = self.unpack(torch.tensor(states, device=self._device))
            if greedy:
                outputs = self._module.forward_inference(batch)
            else:
                outputs = self._module.forward_exploration(batch, t=self.trained_steps)
            return self._finish(outputs, greedy)

    def preprocess(self, observations: Any, masks: NDArray[np.float32] | None) -> Any:
        """What the network sees: encoded, and through the connectors."""
        observations = self.encoded(observations, masks)
        for step in self._recipe.steps:
            observations = step.apply(observations)
        return observations

    def encoded(self, observations: Any, masks: NDArray[np.float32] | None) -> Any:
        """What the first connector sees."""
        if self.has_action_mask:
            observations = {masking.OBSERVATIONS: observations, masking.ACTION_MASK: masks}
        return observations if self._encoding is None else self._encoding.encode(observations)

    def postprocess(self, chosen: Any) -> Any:
        """The simulator's actions from those that the network chose."""
        actions = chosen
        if self._recipe.unsquashes:
            actions = unsquash_action(actions, self._action_struct)
        elif self._recipe.clips:
            actions = clip_action(actions, self._action_struct)
        return actions if self._encoding is None else self._encoding.decode(actions)

    def _tensors(self, observations: Any) -> Any:
        # Wire arrays are read-only views; the copy also keeps torch from warning of that.
        arrays = tree.map_structure(lambda part: np.array(part), observations)
        return convert_to_torch_tensor(arrays, device=str(self._device))

    def _finish(self, outputs: Mapping[str, Any], greedy: bool) -> Outputs:
        chosen, logp = outputs.get(Columns.ACTIONS), outputs.get(Columns.ACTION_LOGP)
        inputs = outputs.get(Columns.ACTION_DIST_INPUTS)
        if chosen is None:
            if greedy:
                kind = self._module.get_inference_action_dist_cls()
                chosen = kind.from_logits(inputs).to_deterministic().sample()
            else:
                kind = self._module.get_exploration_action_dist_cls()
                distribution = kind.from_logits(inputs)
                chosen = distribution.sample()
                logp = distribution.logp(chosen)
        state_out = outputs.get(Columns.STATE_OUT)
        if self.is_recurrent:
            chosen, logp, inputs = (self._without_time(part) for part in (chosen, logp, inputs))
            state_out = tree.map_structure(lambda part: part.numpy(force=True), state_out)
        chosen = tree.map_structure(lambda part: part.numpy(force=True), chosen)
        return Outputs(
            actions=self.postprocess(chosen),
            chosen=chosen,
            states=self.pack(state_out) if self.is_recurrent else None,
            logp=None if logp is None else logp.numpy(force=True),
            inputs=None if inputs is None else inputs.numpy(force=True),
            state_out=state_out if self.is_recurrent else None,
        )

    @staticmethod
    def _without_time(value: Any) -> Any:
        return None if value is None else tree.map_structure(lambda part: part[:, 0], value)

    @staticmethod
    def pack(state: Any) -> States:
        """Float32 [n, S] of states in RLlib's own form."""
        parts = [part.reshape(len(part), -1) for part in tree.flatten(state)]
        if not parts:
            return np.zeros((1, 0), np.float32)
        return np.concatenate(parts, axis=1).astype(np.float32)

    def unpack(self, states: torch.Tensor) -> Any:
        """RLlib's form of states, float32 [n, S]."""
        parts = torch.split(states, self._sizes, dim=1)
        shaped = [part.reshape(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return tree.unflatten_as(self._initial, shaped)


def _one_row(part: torch.Tensor) -> NDArray[np.float32]:
    return part.numpy(force=True)[None]
