"""ONNX models say what the policies say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gymnasium.spaces import Text

from agent.policy import loading
from agent.policy.export import export
from agent.policy.network import Network, build_module
from agent.policy.onnx_graph import NotExportable, leaves_of
from farsim import spaces

KINDS = ["normalised", "nested", "lstm", "sac", "masked", "multi", "deeprm", "deeprm-unmasked"]


def networks(folder: Path) -> list[Network]:
    recipe = loading.load(loading.find(folder), trust=True)
    modules = {name: build_module(module) for name, module in recipe.modules.items()}
    return [Network(policy, modules[policy.module], recipe.steps) for policy in recipe.policies]


@pytest.mark.parametrize("name", KINDS)
def test_a_model_answers_as_the_policy_does(trained, tmp_path, name):
    for network in networks(trained / name):
        path = tmp_path / "model.onnx"
        lines = export(network, path)
        assert any(line.startswith("gives action") for line in lines)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        space = network.observation_space
        space.seed(99)
        for rows in (1, 7):
            batch = spaces.batch(space, [space.sample() for _ in range(rows)])
            given: list[Any] = leaves_of(space, batch)
            mask = state = None
            if network.has_action_mask:
                (width,) = spaces.mask_widths(network.action_space)
                mask = np.eye(width, dtype=np.float32)[np.arange(rows) % width]
                given.append(mask)
            if network.is_recurrent:
                state = np.full((rows, network.state_size), 0.25, np.float32)
                given.append(state)
            names = [port.name for port in session.get_inputs()]
            outputs = [port.name for port in session.get_outputs()]
            found = dict(
                zip(outputs, session.run(None, dict(zip(names, given, strict=True))), strict=True)
            )
            answer = network.act(batch, mask, state, greedy=True)
            np.testing.assert_allclose(found["action"], answer.actions, atol=1e-4)
            np.testing.assert_allclose(found["action_dist_inputs"], answer.inputs, atol=1e-4)
            if state is not None:
                np.testing.assert_allclose(found["state_out"], answer.states, atol=1e-4)
            assert found["action"].dtype == answer.actions.dtype
        path.unlink()


def test_what_is_no_tensor_is_refused(trained, tmp_path):
    (network,) = networks(trained / "normalised")
    network.observation_space = Text(5)
    with pytest.raises(NotExportable, match="has a Text"):
        export(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_that_says_something_else_is_not_written(trained, tmp_path, monkeypatch):
    (network,) = networks(trained / "normalised")
    act = network.act

    def shifted(*args: Any, **kwargs: Any) -> Any:
        answer = act(*args, **kwargs)
        answer.actions[:] = np.clip(answer.actions + 0.5, -10, 10)
        return answer

    monkeypatch.setattr(network, "act", shifted)
    with pytest.raises(NotExportable, match=r"says something else.*'action'"):
        export(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
