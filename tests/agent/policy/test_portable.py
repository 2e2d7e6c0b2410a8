"""Checkpoints without pickle: what is in them, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule

from agent.policy import loading, portable, rllib_checkpoint
from agent.policy.loading import UntrustedCheckpoint
from agent.policy.network import build_module
from agent.policy.recipe import NotPortable
from agent.training.checkpoint import InvalidCheckpoint


class OwnModule(DefaultPPOTorchRLModule):
    """Of a user's."""


@pytest.fixture
def policy(trained, tmp_path) -> Path:
    """A folder of policies that may be spoilt."""
    recipe = rllib_checkpoint.read(trained / "normalised")
    portable.write(recipe, tmp_path / "policy")
    return tmp_path / "policy"


def test_a_farsim_checkpoint_is_served_without_unpickling(trained, tmp_path, monkeypatch):
    # All that the checkpoint has beside them is gone, and nothing may be unpickled.
    folder = tmp_path / "copy"
    shutil.copytree(trained / "masked" / "checkpoints" / "000002" / "policy", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "policy.json"]
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)

    recipe = loading.load(loading.find(folder))

    assert (recipe.iteration, recipe.steps, recipe.algo) == (2, 200, "PPO")
    assert [policy.name for policy in recipe.policies] == ["default_policy"]
    for module in recipe.modules.values():
        build_module(module)


def test_what_was_written_is_what_is_read(trained, policy):
    written = rllib_checkpoint.read(trained / "normalised")
    read = portable.read(policy)
    (one,), (other,) = written.policies, read.policies
    assert (one.observation_space, one.action_space) == (
        other.observation_space,
        other.action_space,
    )
    assert one.steps[0].to_json() == other.steps[0].to_json()
    for name, array in one.steps[0].arrays().items():
        np.testing.assert_array_equal(array, other.steps[0].arrays()[name])
    weights = read.modules["default_policy"].weights
    for name, weight in written.modules["default_policy"].weights.items():
        np.testing.assert_array_equal(weight, weights[name])


@pytest.mark.parametrize("way", ["run", "checkpoint", "pointer"])
def test_a_run_its_checkpoint_and_its_pointer_mean_the_same(trained, way):
    run = trained / "masked"
    path = {"run": run, "checkpoint": run / "checkpoints" / "000002", "pointer": run / "checkpoint"}
    source = loading.find(path[way])
    assert source.folder == run / "checkpoints" / "000002"
    assert source.portable == source.folder / "policy"


def test_rllibs_own_checkpoint_needs_trust(trained):
    source = loading.find(trained / "normalised")
    with pytest.raises(UntrustedCheckpoint, match=r"runs code that it contains.*--trust"):
        loading.load(source)
    assert loading.load(source, trust=True).policies[0].name == "default_policy"


def test_of_several_checkpoints_of_rllib_the_last_counts(trained, tmp_path):
    for name in ("checkpoint_000001", "checkpoint_000002"):
        shutil.copytree(trained / "normalised", tmp_path / name)
    assert loading.find(tmp_path).folder == tmp_path / "checkpoint_000002"


def test_a_checkpoint_without_policies_says_why(trained, tmp_path):
    folder = tmp_path / "000002"
    shutil.copytree(trained / "masked" / "checkpoints" / "000002", folder)
    shutil.rmtree(folder / "policy")
    with pytest.raises(UntrustedCheckpoint, match="before Farsim's checkpoints carried"):
        loading.load(loading.find(folder))
    portable.write_reason("the connector Own is none that can be served", folder / "policy")
    with pytest.raises(UntrustedCheckpoint, match="the connector Own is none"):
        loading.load(loading.find(folder))
    assert loading.load(loading.find(folder), trust=True).iteration == 2


def test_a_network_of_ones_own_is_not_looked_up_by_name(trained, tmp_path):
    recipe = rllib_checkpoint.read(trained / "normalised")
    module = recipe.modules["default_policy"]
    own = replace(recipe, modules={"default_policy": replace(module, module_class=OwnModule)})
    with pytest.raises(NotPortable, match="OwnModule is a class of your own"):
        portable.write(own, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("os:system", "none of the networks that a checkpoint may name"),
        ("ray.rllib.core.columns:Columns", "is no network"),
        ("ray.rllib.core.gone:Module", "is not installed"),
    ],
)
def test_other_code_is_not_run(policy, name, complaint):
    document = json.loads((policy / "policy.json").read_text())
    document["modules"]["default_policy"]["class"] = name
    (policy / "policy.json").write_text(json.dumps(document))
    with pytest.raises(InvalidCheckpoint, match=complaint):
        portable.read(policy)


def test_pickled_arrays_are_refused(policy):
    with np.load(policy / "arrays.npz") as file:
        arrays = dict(file)
    arrays[next(iter(arrays))] = np.array([{}], object)
    np.savez(policy / "arrays.npz", allow_pickle=True, **arrays)
    with pytest.raises(InvalidCheckpoint, match=r"damaged.*pickle"):
        portable.read(policy)


def test_damage_is_told(policy):
    (policy / "arrays.npz").write_bytes((policy / "arrays.npz").read_bytes()[:100])
    with pytest.raises(InvalidCheckpoint, match="damaged"):
        portable.read(policy)
    (policy / "policy.json").write_text('{"format": 99}')
    with pytest.raises(InvalidCheckpoint, match="format 99"):
        portable.read(policy)


def test_weights_of_another_shape_are_told(policy):
    recipe = portable.read(policy)
    module = recipe.modules["default_policy"]
    weights = {**module.weights, "pi.net.mlp.0.bias": np.zeros(7, np.float32)}
    with pytest.raises(InvalidCheckpoint, match=r"pi.net.mlp.0.bias.*\(7,\), not \(4,\)"):
        build_module(replace(module, weights=weights))


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(InvalidCheckpoint, match="nothing at"):
        loading.find(tmp_path / "gone")
    with pytest.raises(InvalidCheckpoint, match="is no checkpoint"):
        loading.find(tmp_path)
