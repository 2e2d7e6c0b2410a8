"""A policy's forward pass on the batch of all environments, as RLlib's connectors have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical
from ray.rllib.core.models.torch.encoder import TorchActorCriticEncoder, TorchMLPEncoder
from ray.rllib.core.models.torch.heads import TorchMLPHead
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from torch.nn import functional

_CPU = torch.device("cpu")

_Layer = Callable[[torch.Tensor], torch.Tensor]


class Forward:
    """One policy's actions on batches.

    The arithmetic and the random numbers are those of RLlib's modules and of its ``GetActions``.
    Where the module is one of RLlib's own with nothing but dense layers, these are called one
    after the other, without what else surrounds them.

    Args:
        module: an RLModule; ``forward`` may be called as long as its layers stay the same objects
            with weights in the same memory.
        device: where it is.
    """

    def __init__(self, module: Any, device: Any) -> None:
        self.module = module
        self._device = torch.device(device)
        self._kinds: dict[bool, Any] = {}
        layers = dense_layers(module)
        self._layers = None if layers is None else _called(layers)

    def __call__(
        self, observation: Any, explore: bool, time: int, state: Any = None
    ) -> dict[str, Any]:
        """Chooses.

        Args:
            observation: a nest of arrays [rows, ...].
            explore: whether to draw actions, or take the likeliest ones.
            time: environment steps so far.
            state: of a recurrent module, a nest of arrays [rows, ...]; None for any other.

        Returns:
            Nests of NumPy arrays [rows, ...] by column: "actions", what the learner wants to know
            of them, and "state_out" of a recurrent module.
        """
        # Where no module is called, nobody can keep a tensor.
        with torch.no_grad() if self._layers is None else torch.inference_mode():
            seen = _to_torch(observation, self._device)
            if self._layers is not None:
                for layer in self._layers:
                    seen = layer(seen)
                outputs = {Columns.ACTION_DIST_INPUTS: seen}
            else:
                outputs = self._ask(seen, explore, time, state)
            if Columns.ACTIONS not in outputs:
                self._choose(outputs, explore)
        arrays = {name: _to_numpy(value) for name, value in outputs.items()}
        if state is not None:
            for name, value in arrays.items():
                if name != Columns.STATE_OUT:
                    arrays[name] = tree.map_structure(lambda leaf: leaf[:, 0], value)
        return arrays

    def _ask(self, seen: Any, explore: bool, time: int, state: Any) -> dict[str, Any]:
        batch = {Columns.OBS: seen}
        if state is not None:
            batch[Columns.OBS] = tree.map_structure(lambda leaf: leaf.unsqueeze(1), seen)
            batch[Columns.STATE_IN] = _to_torch(state, self._device)
        if explore:
            return dict(self.module.forward_exploration(batch, t=time))
        return dict(self.module.forward_inference(batch))

    def _choose(self, outputs: dict[str, Any], explore: bool) -> None:
        """Adds actions, and their log-probabilities, from the parameters of a distribution."""
        if explore not in self._kinds:
            module = self.module
            self._kinds[explore] = (
                module.get_exploration_action_dist_cls()
                if explore
                else module.get_inference_action_dist_cls()
            )
        kind, inputs = self._kinds[explore], outputs[Columns.ACTION_DIST_INPUTS]
        if explore and kind is TorchCategorical and Columns.ACTION_LOGP not in outputs:
            outputs[Columns.ACTIONS], outputs[Columns.ACTION_LOGP] = _draw(inputs)
            return
        distribution = kind.from_logits(inputs)
        if not explore:
            distribution = distribution.to_deterministic()
        outputs[Columns.ACTIONS] = distribution.sample()
        if Columns.ACTION_LOGP not in outputs:
            outputs[Columns.ACTION_LOGP] = distribution.logp(outputs[Columns.ACTIONS])


def dense_layers(module: Any) -> list[torch.nn.Module] | None:
    """From observations to the parameters of a distribution; None if there is more to it."""
    kind = type(module)
    overridden = (
        not isinstance(module, DefaultPPOTorchRLModule)
        or kind._forward is not DefaultPPOTorchRLModule._forward
        or any(
            getattr(kind, name) is not getattr(TorchRLModule, name)
            for name in (
                "forward_exploration",
                "_forward_exploration",
                "forward_inference",
                "_forward_inference",
            )
        )
    )
    if overridden or type(module.encoder) is not TorchActorCriticEncoder:
        return None
    encoder: Any = module.encoder
    actor = encoder.encoder if encoder.config.shared else encoder.actor_encoder
    head: Any = module.pi
    if type(actor) is not TorchMLPEncoder or type(head) is not TorchMLPHead or head.clip_log_std:
        return None
    parts = [module, encoder, actor, actor.net, actor.net.mlp, head, head.net, head.net.mlp]
    layers = [*actor.net.mlp, *head.net.mlp]
    if any(part._forward_hooks or part._forward_pre_hooks for part in [*parts, *layers]):
        return None
    return layers


def _called(layers: list[torch.nn.Module]) -> list[_Layer]:
    found: list[_Layer] = []
    for before, layer in zip([None, *layers], layers, strict=False):
        if type(layer) is torch.nn.Linear:
            found.append(_linear(layer.weight, layer.bias))
        elif type(layer) is torch.nn.Tanh:
            # In place only in what nobody else has.
            found.append(torch.tanh_ if type(before) is torch.nn.Linear else torch.tanh)
        else:
            found.append(layer)
    return found


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> _Layer:
    if bias is None:
        return lambda seen: functional.linear(seen, weight)
    # What ``linear`` makes of it each time, for a matrix.
    transposed = weight.detach().t()
    return lambda seen: torch.addmm(bias, seen, transposed)


def _draw(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch.distributions.Categorical`` draws, without its objects and checks.

    One draw of ``torch.multinomial`` is the largest ratio of a probability to an exponential
    variable.
    """
    largest = logits.amax(dim=-1, keepdim=True)
    # What logsumexp does where no logit is infinite, in a third of its time.
    logp = logits - ((logits - largest).exp_().sum(dim=-1, keepdim=True).log_() + largest)
    chances = torch.softmax(logp, dim=-1)
    actions = chances.div_(torch.empty_like(chances).exponential_(1)).argmax(dim=-1)
    return actions, logp.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def _to_torch(value: Any, device: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and device == _CPU:
        return torch.from_numpy(value)
    return convert_to_torch_tensor(value, device=device)


def _to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device == _CPU:
        if value.dtype == torch.float32:
            return value.numpy()
        if value.dtype == torch.int64:  # As RLlib's TensorToNumpy has it.
            return value.numpy().astype(np.int32)
    return convert_to_numpy(value)
