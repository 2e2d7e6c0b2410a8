"""Action spaces: draws, gradients, and what environments and critics get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple

from agent.maddpg.actions import action_code
from agent.models.encoding import UnsupportedSpace

SPACES = {
    "discrete": Discrete(4),
    "multi_discrete": MultiDiscrete([2, 3]),
    "box": Box(np.array([-1, 0], np.float32), np.array([3, 5], np.float32)),
}
EACH = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def outputs_for(space: Any, rows: int = 64, scale: float = 1.0) -> torch.Tensor:
    torch.manual_seed(2)
    return scale * torch.randn(rows, action_code(space, 1.0).num_outputs)


@EACH
def test_actions_are_in_the_space_and_come_back(space: Any) -> None:
    code = action_code(space, 1.0)
    for encoded in (code.draw(outputs_for(space)), code.greedy(outputs_for(space))):
        assert encoded.shape == (64, code.width)
        actions = code.decode(encoded)
        for action in actions.numpy().astype(space.dtype):
            assert space.contains(action)
        torch.testing.assert_close(code.encode(actions), encoded)


@EACH
def test_gradients_reach_the_outputs(space: Any) -> None:
    code, outputs = action_code(space, 1.0), outputs_for(space).requires_grad_()

    code.draw(outputs)[:, 0].sum().backward()

    assert outputs.grad is not None and outputs.grad.abs().sum() > 0


def test_a_choice_is_drawn_with_its_probability() -> None:
    code = action_code(Discrete(3), 1.0)
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    torch.manual_seed(1)

    drawn = code.draw(probabilities.log().expand(20_000, 3))

    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), probabilities, atol=0.015, rtol=0)


def test_the_relaxed_gradient_is_that_of_the_gumbel_softmax() -> None:
    """Against its definition, Jang et al. 2017, equation 2, for the same noise."""
    code, temperature = action_code(Discrete(3), 0.7), 0.7
    outputs = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    torch.manual_seed(4)
    code.draw(outputs)[0, 1].backward()
    straight_through = outputs.grad

    torch.manual_seed(4)
    noise = -torch.empty(1, 3).exponential_().log()
    again = outputs.detach().requires_grad_()
    torch.softmax((again + noise) / temperature, dim=-1)[0, 1].backward()

    torch.testing.assert_close(straight_through, again.grad)


@EACH
def test_exploration_dies_down_where_the_actor_is_sure(space: Any) -> None:
    code = action_code(space, 1.0)
    unsure, sure = outputs_for(space, scale=0.1), outputs_for(space, scale=40.0)

    assert (code.draw(sure) - code.greedy(sure)).abs().mean() < 0.1
    assert (code.draw(unsure) - code.greedy(unsure)).abs().mean() > 0.2
    assert (code.entropy(sure) < code.entropy(unsure)).float().mean() > 0.9


@pytest.mark.parametrize(
    "space",
    [
        Box(-np.inf, np.inf, (2,), np.float32),
        Box(0, 255, (2,), np.uint8),
        Box(1.0, 1.0, (1,), np.float32),
        Discrete(3, start=1),
        MultiDiscrete([[2, 3]]),
        Tuple([Discrete(2)]),
    ],
    ids=str,
)
def test_other_spaces_are_refused(space: Any) -> None:
    with pytest.raises(UnsupportedSpace, match="MADDPG"):
        action_code(space, 1.0)
