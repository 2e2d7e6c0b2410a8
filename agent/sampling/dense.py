"""Dense networks in NumPy, whose calls cost a fraction of PyTorch's where there are few rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
)

from agent.sampling.forward import Forward, dense_layers

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
_Layer = Callable[[Floats], Floats]

_TINY = np.finfo(np.float32).tiny
_LOG_SQRT_2_PI = np.float32(math.log(math.sqrt(2 * math.pi)))


class NumpyForward(Forward):
    """As ``Forward``, with the arithmetic in NumPy where actions are drawn by a dense network.

    Log-probabilities and the parameters of distributions agree with PyTorch's to float32's
    rounding; random numbers are NumPy's, so that other actions are drawn. Anything else than
    dense layers with tanh or ReLU on a CPU, and one Discrete or Box action, goes PyTorch's way;
    the log says so.

    Args:
        module: an RLModule; its layers stay the same objects, whose weights may change in place.
        device: where it is.
        random: draws the actions.
    """

    def __init__(self, module: Any, device: Any, random: np.random.Generator) -> None:
        super().__init__(module, device)
        self._random = random
        kind = module.get_exploration_action_dist_cls()
        draws = {TorchCategorical: self._choice, TorchDiagGaussian: self._gaussian}
        self._draw = draws.get(kind)
        self._numpy_layers = _in_numpy(dense_layers(module)) if self._draw is not None else None
        if torch.device(device).type != "cpu":
            self._numpy_layers = None
        if self._numpy_layers is None:
            logger.warning("%s can not act in NumPy, and acts in PyTorch", type(module).__name__)

    def __call__(
        self, observation: Any, explore: bool, time: int, state: Any = None
    ) -> dict[str, Any]:
        is_plain = isinstance(observation, np.ndarray) and observation.dtype == np.float32
        if self._numpy_layers is None or self._draw is None or not explore or not is_plain:
            return super().__call__(observation, explore, time, state)
        seen = observation
        for layer in self._numpy_layers:
            seen = layer(seen)
        actions, logp = self._draw(seen)
        return {
            Columns.ACTION_DIST_INPUTS: seen,
            Columns.ACTIONS: actions,
            Columns.ACTION_LOGP: logp,
        }

    def _choice(self, logits: Floats) -> tuple[NDArray[np.int32], Floats]:
        """Discrete actions: the largest ratio of a probability to an exponential variable.

        By their logarithms, so that the probabilities themselves are of no need.
        """
        noise: Any = self._random.standard_exponential(logits.shape, np.float32)
        noise += _TINY  # It may be zero.
        actions = (logits - np.log(noise)).argmax(axis=1)
        logp = logits[np.arange(len(actions)), actions] - _log_of_sum(logits)
        return actions.astype(np.int32), logp

    def _gaussian(self, inputs: Floats) -> tuple[Floats, Floats]:
        """Box actions, from means and logarithms of standard deviations."""
        means, logs = np.split(inputs, 2, axis=1)
        noise: Any = self._random.standard_normal(means.shape, np.float32)
        actions = means + np.exp(logs) * noise
        return actions, (np.float32(-0.5) * noise * noise - logs - _LOG_SQRT_2_PI).sum(axis=1)


def _log_of_sum(logits: Floats) -> Floats:
    """The logarithm of each row's sum of exponentials."""
    if logits.shape[1] == 2:  # In one call.
        both: Floats = np.logaddexp(logits[:, 0], logits[:, 1])
        return both
    largest = np.maximum.reduce(logits, axis=1, keepdims=True)
    total: Floats = np.log(np.add.reduce(np.exp(logits - largest), axis=1))
    total += largest[:, 0]
    return total


def _in_numpy(layers: list[torch.nn.Module] | None) -> list[_Layer] | None:
    """The layers on arrays, which share their memory with PyTorch's; None if one is unknown."""
    found: list[_Layer] = []
    for layer in layers or [torch.nn.Identity()]:
        if type(layer) is torch.nn.Linear:
            weight = layer.weight.detach().numpy().T
            bias = np.float32(0) if layer.bias is None else layer.bias.detach().numpy()
            found.append(_linear(weight, bias))
        elif type(layer) is torch.nn.Tanh:
            found.append(np.tanh)
        elif type(layer) is torch.nn.ReLU:
            found.append(lambda seen: np.maximum(seen, np.float32(0)))
        else:
            return None
    return found


def _linear(weight: Floats, bias: Any) -> _Layer:
    def layer(seen: Floats) -> Floats:
        after = np.dot(seen, weight)
        after += bias
        return after

    return layer
