"""PyTorch's Adam in a few operations on all parameters at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Settings of ``torch.optim.Adam`` with which its step is the one below.
_SETTINGS = {
    "weight_decay": (0,),
    "amsgrad": (False,),
    "maximize": (False,),
    "capturable": (False,),
    "differentiable": (False,),
    "decoupled_weight_decay": (False,),
    "fused": (None, False),
}


class FlatAdam:
    """Steps of a ``torch.optim.Adam`` whose moments lie one after the other in memory.

    The optimizer keeps its state, which is views into that memory from then on; ``state_dict`` and
    its own ``step`` work as before. On a CPU the weights are the same to the last bit as by its own
    ``step``.

    Args:
        optimizer: that has done a step already.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self._group = optimizer.param_groups[0]
        self.parameters: list[Tensor] = self._group["params"]
        state: Any = optimizer.state
        states = [state[parameter] for parameter in self.parameters]
        self._means, self._mean_views = _flat([own["exp_avg"] for own in states])
        self._squares, square_views = _flat([own["exp_avg_sq"] for own in states])
        self._below, self._below_views = _flat([torch.zeros_like(p) for p in self.parameters])
        self._steps = torch.stack([own["step"] for own in states])
        self._number = float(self._steps[0])
        for own, mean, square, number in zip(
            states, self._mean_views, square_views, self._steps, strict=True
        ):
            own["exp_avg"], own["exp_avg_sq"], own["step"] = mean, square, number

    @staticmethod
    def suits(optimizer: torch.optim.Optimizer) -> bool:
        """Whether its steps can be done here; if it has done none yet, from the next one on."""
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        if any(group.get(name, allowed[0]) not in allowed for name, allowed in _SETTINGS.items()):
            return False
        if not isinstance(group["lr"], float) or optimizer._optimizer_step_pre_hooks:
            return False
        if optimizer._optimizer_step_post_hooks:
            return False
        parameters = group["params"]
        return all(
            p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu"
            for p in parameters
        )

    @staticmethod
    def is_ready(optimizer: torch.optim.Optimizer) -> bool:
        """Whether it has done as many steps with every parameter, and at least one."""
        parameters = optimizer.param_groups[0]["params"]
        states = [optimizer.state.get(parameter) for parameter in parameters]
        numbers = {float(state["step"]) if state else 0.0 for state in states}
        return len(numbers) == 1 and 0.0 not in numbers

    def step(self, gradient: Tensor) -> None:
        """One step, with the gradients of all parameters side by side: float32 [numbers]."""
        group = self._group
        beta1, beta2 = group["betas"]
        self._steps.add_(1)
        self._number += 1
        self._means.lerp_(gradient, 1 - beta1)
        self._squares.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.sqrt(self._squares, out=self._below)
        self._below.div_((1 - beta2**self._number) ** 0.5).add_(group["eps"])
        size = group["lr"] / (1 - beta1**self._number)
        torch._foreach_addcdiv_(self.parameters, self._mean_views, self._below_views, -size)


def _flat(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Copies of tensors in one, and as views of it."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    parts = flat.split([tensor.numel() for tensor in tensors])
    return flat, [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
