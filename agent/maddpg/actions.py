"""From an actor's numbers to actions, and from actions to what a critic sees."""

from __future__ import annotations

import abc
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchMultiCategorical,
)
from torch import Tensor, nn

from agent.models.encoding import UnsupportedSpace


class ActionCode(nn.Module, abc.ABC):
    """How the actions of one space are drawn, differentiated and shown to a critic.

    An actor's outputs are ``num_outputs`` numbers, the last dimension of ``outputs`` below; a
    critic sees ``width`` numbers for an action.

    Attributes:
        num_outputs: of the actor.
        width: of an action in a critic's input.
    """

    num_outputs: int
    width: int

    @abc.abstractmethod
    def encode(self, actions: Tensor) -> Tensor:
        """Actions as an environment got them [..., *shape of the space] as [..., width]."""

    @abc.abstractmethod
    def greedy(self, outputs: Tensor) -> Tensor:
        """The actions [..., width] to take when nothing is left to learn."""

    @abc.abstractmethod
    def draw(self, outputs: Tensor) -> Tensor:
        """Actions [..., width] as they are while exploring, differentiable in ``outputs``."""

    @abc.abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """How undecided the actor is, in nats: [...], summed over the parts of an action."""

    @abc.abstractmethod
    def decode(self, encoded: Tensor) -> Tensor:
        """Actions [..., width] as an environment takes them."""

    def distribution(self) -> type[Any] | None:
        """RLlib's distribution of which ``outputs`` are the inputs; None if there is none."""
        return None


class ChoiceCode(ActionCode):
    """One choice, or several independent ones: one-hot vectors side by side.

    Exploring draws from the softmax of the outputs by the Gumbel-max trick, and the gradient is
    that of the relaxed draw, straight through: E. Jang, S. Gu, B. Poole, "Categorical
    Reparameterization with Gumbel-Softmax", ICLR 2017, section 2 and 2.2.

    Args:
        counts: of the alternatives of each choice.
        temperature: of the relaxed draw; low ones are nearer to a choice, with gradients that vary
            more.
        is_vector: whether the space's actions are vectors, as those of ``MultiDiscrete``.
    """

    def __init__(self, counts: list[int], temperature: float, is_vector: bool) -> None:
        super().__init__()
        self._counts = counts
        self._temperature = temperature
        self._is_vector = is_vector
        self.num_outputs = self.width = sum(counts)

    def encode(self, actions: Tensor) -> Tensor:
        choices = actions.long()
        if not self._is_vector:
            choices = choices[..., None]
        parts = [
            nn.functional.one_hot(choices[..., place], count)
            for place, count in enumerate(self._counts)
        ]
        return torch.cat(parts, dim=-1).float()

    def greedy(self, outputs: Tensor) -> Tensor:
        return torch.cat([_one_hot_max(part) for part in self._split(outputs)], dim=-1)

    def draw(self, outputs: Tensor) -> Tensor:
        parts = []
        for part in self._split(outputs):
            noise = -torch.empty_like(part).exponential_().log()
            noisy = part + noise
            if torch.is_grad_enabled() and outputs.requires_grad:
                relaxed = torch.softmax(noisy / self._temperature, dim=-1)
                parts.append(_one_hot_max(noisy) + relaxed - relaxed.detach())
            else:
                parts.append(_one_hot_max(noisy))
        return torch.cat(parts, dim=-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        entropies = [
            -(torch.log_softmax(part, -1) * torch.softmax(part, -1)).sum(-1)
            for part in self._split(outputs)
        ]
        return torch.stack(entropies).sum(0)

    def decode(self, encoded: Tensor) -> Tensor:
        choices = torch.stack([part.argmax(-1) for part in self._split(encoded)], dim=-1)
        return choices if self._is_vector else choices[..., 0]

    def distribution(self) -> type[Any]:
        if self._is_vector:
            several: Any = TorchMultiCategorical
            return several.get_partial_dist_cls(input_lens=self._counts)
        return TorchCategorical

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split(self._counts, dim=-1)


class BoxCode(ActionCode):
    """Numbers between bounds: a sigmoid of the outputs.

    Exploring adds logistic noise before the sigmoid: each number is a relaxed coin, the Gumbel-
    softmax of two alternatives (Jang et al. 2017, see ``ChoiceCode``). The noise dies down by
    itself where an actor has made up its mind, at the ends of the range, which noise of a fixed
    size beside the action, as in T. Lillicrap et al., "Continuous control with deep reinforcement
    learning", ICLR 2016, does not.

    Args:
        low: float [...], the bounds.
        high: float [...].
        temperature: by which the sum of output and noise is divided.
    """

    def __init__(self, low: np.ndarray[Any, Any], high: np.ndarray[Any, Any], temperature: float):
        super().__init__()
        self._shape = low.shape
        self._temperature = temperature
        self._low: Tensor
        self._range: Tensor
        lowest = torch.tensor(low, dtype=torch.float32).reshape(-1)
        highest = torch.tensor(high, dtype=torch.float32).reshape(-1)
        self.register_buffer("_low", lowest, persistent=False)
        self.register_buffer("_range", highest - lowest, persistent=False)
        self.num_outputs = self.width = lowest.numel()

    def encode(self, actions: Tensor) -> Tensor:
        flat = actions.float().reshape(*actions.shape[: actions.dim() - len(self._shape)], -1)
        return (flat - self._low) / self._range

    def greedy(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs / self._temperature)

    def draw(self, outputs: Tensor) -> Tensor:
        uniform = torch.rand_like(outputs).clamp(1e-6, 1 - 1e-6)
        return torch.sigmoid((outputs + torch.logit(uniform)) / self._temperature)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Of the coins of which the numbers are relaxations."""
        log_yes, log_no = nn.functional.logsigmoid(outputs), nn.functional.logsigmoid(-outputs)
        return -(log_yes.exp() * log_yes + log_no.exp() * log_no).sum(-1)

    def decode(self, encoded: Tensor) -> Tensor:
        actions = self._low + self._range * encoded
        return actions.reshape(*encoded.shape[:-1], *self._shape)


def _one_hot_max(values: Tensor) -> Tensor:
    return nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


@singledispatch
def action_code(space: Space[Any] | None, temperature: float) -> ActionCode:
    """The code of an action space.

    Raises:
        UnsupportedSpace: neither ``Discrete``, ``MultiDiscrete`` nor a bounded ``Box``.
    """
    raise UnsupportedSpace(
        f"MADDPG cannot act in {space}: actions must be Discrete, MultiDiscrete, or a Box with "
        "bounds"
    )


@action_code.register(Discrete)
def _(space: Discrete[Any], temperature: float) -> ActionCode:
    if space.start:
        raise UnsupportedSpace(f"MADDPG counts choices from 0, unlike {space}")
    return ChoiceCode([int(space.n)], temperature, is_vector=False)


@action_code.register(MultiDiscrete)
def _(space: MultiDiscrete, temperature: float) -> ActionCode:
    if space.nvec.ndim != 1 or np.any(space.start):
        raise UnsupportedSpace(f"MADDPG takes vectors of choices counted from 0, unlike {space}")
    return ChoiceCode([int(count) for count in space.nvec], temperature, is_vector=True)


@action_code.register(Box)
def _(space: Box, temperature: float) -> ActionCode:
    if not space.is_bounded() or not np.issubdtype(space.dtype, np.floating):
        raise UnsupportedSpace(f"MADDPG needs real numbers with bounds for actions, not {space}")
    if np.any(space.low >= space.high):
        raise UnsupportedSpace(f"MADDPG needs actions that can vary, unlike those of {space}")
    return BoxCode(space.low, space.high, temperature)
