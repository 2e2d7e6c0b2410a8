"""What is served equals what RLlib's own pipeline says, from RLlib's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space

from agent.policy import portable, rllib_checkpoint
from agent.policy.network import Network, build_module
from agent.policy.recipe import Recipe
from agent.training import checkpoint as checkpoints
from farsim import spaces
from tests.agent.policy.reference import Reference

STEPS = 12
#: Those of one agent, that see what RLlib's environments give.
PLAIN = ["normalised", "nested", "lstm", "sac"]
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=["portable", "unpickled"])
def way(request: Any) -> str:
    """How checkpoints are read."""
    return str(request.param)


def recipe_of(folder: Path, way: str, scratch: Path) -> Recipe:
    manifest = checkpoints.find(folder).manifest if (folder / "farsim.json").exists() else None
    recipe = rllib_checkpoint.read(folder, manifest)
    if way == "unpickled":
        return recipe
    portable.write(recipe, scratch / "policy")
    return portable.read(scratch / "policy")


def networks(recipe: Recipe) -> dict[str, Network]:
    modules = {name: build_module(module) for name, module in recipe.modules.items()}
    return {
        policy.name: Network(policy, modules[policy.module], recipe.steps)
        for policy in recipe.policies
    }


def observations(space: Space[Any], rows: int = STEPS) -> list[Any]:
    space.seed(11)
    return [space.sample() for _ in range(rows)]


def play(network: Network, seen: list[Any], greedy: bool, masks: Any = None) -> list[Any]:
    """One episode, one row at a time, as RLlib's pipeline is asked."""
    torch.manual_seed(0)
    state = network.initial_state[None] if network.is_recurrent else None
    answers = []
    for index, observation in enumerate(seen):
        batch = spaces.batch(network.observation_space, [observation])
        mask = None if masks is None else masks[index : index + 1]
        answers.append(network.act(batch, mask, state, greedy))
        state = answers[-1].states
    return answers


def check(answers: list[Any], expected: list[dict[str, Any]], greedy: bool) -> None:
    for mine, theirs in zip(answers, expected, strict=True):
        np.testing.assert_allclose(mine.chosen[0], theirs["actions"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(
            mine.inputs[0], theirs["action_dist_inputs"], rtol=TOLERANCE, atol=TOLERANCE
        )
        if not greedy:
            np.testing.assert_allclose(
                mine.logp[0], theirs["action_logp"], rtol=TOLERANCE, atol=TOLERANCE
            )


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", PLAIN)
def test_actions_and_distributions_are_those_of_rllib(trained, tmp_path, way, name, greedy):
    recipe = recipe_of(trained / name, way, tmp_path)
    network = networks(recipe)["default_policy"]
    seen = observations(network.observation_space)
    expected = Reference(trained / name, recipe.steps).single(seen, greedy)

    answers = play(network, seen, greedy)

    check(answers, expected, greedy)
    for mine, theirs in zip(answers, expected, strict=True):
        np.testing.assert_allclose(
            mine.actions[0], theirs["actions_for_env"], rtol=0, atol=TOLERANCE
        )
        assert network.action_space.contains(
            spaces.unbatch(network.action_space, mine.actions, 1)[0]
        )


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
def test_masked_actions_are_those_of_rllib(trained, tmp_path, way, greedy):
    folder = trained / "masked" / "checkpoints" / "000002"
    recipe = recipe_of(folder, way, tmp_path)
    network = networks(recipe)["default_policy"]
    assert network.has_action_mask and network.encoding is not None
    seen = observations(network.observation_space)
    masks = (np.random.default_rng(3).random((STEPS, 5)) < 0.4).astype(np.float32)
    masks[np.arange(STEPS), np.arange(STEPS) % 5] = 1
    encoded = [
        {"observations": np.eye(5, dtype=np.float32)[number], "action_mask": mask}
        for number, mask in zip(seen, masks, strict=True)
    ]
    expected = Reference(folder, recipe.steps).single(encoded, greedy)

    answers = play(network, seen, greedy, masks)

    check(answers, expected, greedy)
    assert all(mask[answer.actions[0]] for mask, answer in zip(masks, answers, strict=True))


def test_each_agent_has_its_policy_and_its_own_normalisation(trained, tmp_path, way):
    recipe = recipe_of(trained / "multi", way, tmp_path)
    found = networks(recipe)
    assert {name: network.recipe.agents for name, network in found.items()} == {
        "ants": ("ant",),
        "bees/bee_0": ("bee_0",),
        "bees/bee_1": ("bee_1",),
    }
    by_agent = {network.recipe.agents[0]: network for network in found.values()}
    seen = {agent: observations(network.observation_space) for agent, network in by_agent.items()}
    rounds = [{agent: seen[agent][i] for agent in seen} for i in range(STEPS)]
    expected = Reference(trained / "multi", recipe.steps).multi(rounds, greedy=True)

    for agent, network in by_agent.items():
        answers = play(network, seen[agent], greedy=True)
        for mine, theirs in zip(answers, expected, strict=True):
            np.testing.assert_allclose(
                mine.actions[0], theirs["actions_for_env"][agent], rtol=0, atol=TOLERANCE
            )
    # The bees see alike, and have met different means.
    bees = [play(by_agent[name], seen["bee_0"], greedy=True) for name in ("bee_0", "bee_1")]
    assert not np.allclose(bees[0][0].inputs, bees[1][0].inputs)


@pytest.mark.parametrize("name", PLAIN)
def test_a_batch_is_as_good_as_single_rows(trained, tmp_path, name):
    recipe = recipe_of(trained / name, "unpickled", tmp_path)
    network = networks(recipe)["default_policy"]
    seen = observations(network.observation_space)
    single = [play(network, [one], greedy=True)[0] for one in seen]

    batch = spaces.batch(network.observation_space, seen)
    states = np.stack([network.initial_state] * STEPS) if network.is_recurrent else None
    together = network.act(batch, None, states, greedy=True)

    np.testing.assert_allclose(
        together.inputs, np.concatenate([one.inputs for one in single]), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        together.actions, np.concatenate([one.actions for one in single]), rtol=1e-5, atol=1e-5
    )


def test_the_state_of_an_lstm_matters(trained, tmp_path):
    recipe = recipe_of(trained / "lstm", "unpickled", tmp_path)
    network = networks(recipe)["default_policy"]
    seen = observations(network.observation_space)
    remembering = play(network, seen, greedy=True)[-1]
    forgetful = play(network, seen[-1:], greedy=True)[0]
    assert not np.allclose(remembering.inputs, forgetful.inputs)
