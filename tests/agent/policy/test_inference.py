"""Versions of a policy: which answers, how one takes the place of another, what is refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agent.live.inference import Query
from agent.policy import portable, rllib_checkpoint
from agent.policy.inference import CheckpointInference
from agent.policy.recipe import Recipe
from farsim.errors import FarsimError, InvalidArgument, SpaceMismatch, UnknownPolicy

ROW = np.zeros(3, np.float32)


def marked(recipe: Recipe, number: int) -> Recipe:
    """A checkpoint whose likeliest action says which one it is: 0.01 for each iteration."""
    module = recipe.modules["default_policy"]
    weights = {name: np.zeros_like(weight) for name, weight in module.weights.items()}
    weights["pi.log_std_clip_param_const"] = module.weights["pi.log_std_clip_param_const"]
    # Unsquashed from -1..1 to -2..3.
    bias = (0.01 * number + 2.0) / 5.0 * 2.0 - 1.0
    weights["pi.net.mlp.0.bias"] = np.array([bias, 0, -20, -20], np.float32)
    return replace(
        recipe,
        modules={"default_policy": replace(module, weights=weights)},
        iteration=number,
        origin=f"checkpoint {number}",
    )


def mark_of(action: Any) -> int:
    return round(float(action[0]) / 0.01)


def query(greedy: bool = True, state: Any = None, **fields: Any) -> Query:
    return Query(fields.get("observation", ROW), fields.get("masks", ()), state, greedy, None)


@pytest.fixture(scope="module")
def recipe(trained) -> Recipe:
    return rllib_checkpoint.read(trained / "normalised")


def test_the_newest_version_answers_and_older_ones_may_be_asked_for(recipe):
    inference = CheckpointInference(marked(recipe, 3), keep=2)
    assert inference.versions("default_policy") == [3]
    assert inference.add(marked(recipe, 8)) == 8
    assert inference.versions("default_policy") == [3, 8]

    for version, expected in ((0, 8), (8, 8), (3, 3)):
        (answer,) = inference.act("default_policy", [query()], version)
        assert (answer.version, mark_of(answer.action)) == (expected, expected)
    (spec,) = inference.policies()
    assert spec.checkpoint == "checkpoint 8"

    inference.add(marked(recipe, 9))
    with pytest.raises(UnknownPolicy, match="no version 3 is kept: there are 8, 9"):
        inference.act("default_policy", [query()], 3)


def test_versions_only_go_up(recipe):
    inference = CheckpointInference(marked(recipe, 5))
    assert inference.add(marked(recipe, 2)) == 6
    assert inference.versions("default_policy") == [5, 6]


def test_an_unknown_policy_is_told(recipe):
    inference = CheckpointInference(recipe)
    with pytest.raises(UnknownPolicy, match="no policy 'other': there are default_policy"):
        inference.act("other", [query()])
    with pytest.raises(UnknownPolicy, match="other"):
        inference.versions("other")


def test_other_spaces_do_not_take_the_place(trained, recipe):
    inference = CheckpointInference(recipe)
    with pytest.raises(SpaceMismatch, match=r"for other spaces .*observation.*action"):
        inference.add(rllib_checkpoint.read(trained / "nested"))
    with pytest.raises(SpaceMismatch, match="has the policies ants"):
        inference.add(rllib_checkpoint.read(trained / "multi"))
    assert inference.versions("default_policy") == [1]


def test_greedy_and_sampled_questions_may_come_together(recipe):
    inference = CheckpointInference(recipe)
    torch.manual_seed(1)
    questions = [query(greedy=row % 2 == 0) for row in range(20)]
    answers = inference.act("default_policy", questions)
    greedy = {tuple(answer.action) for answer in answers[::2]}
    sampled = {tuple(answer.action) for answer in answers[1::2]}
    assert len(greedy) == 1
    assert len(sampled) == 10


def test_extras_are_what_a_learner_needs(trained, recipe):
    inference = CheckpointInference(recipe, extras=True)
    (answer,) = inference.act("default_policy", [query(greedy=False)])
    inputs = torch.from_numpy(answer.extras["action_dist_inputs"])
    mean, log_std = inputs.chunk(2)
    chosen = torch.from_numpy(np.array(answer.extras["actions"]))
    logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(chosen).sum()
    assert answer.extras["action_logp"] == pytest.approx(float(logp), abs=1e-5)
    low, high = np.array([-2, 0]), np.array([3, 5])
    expected = np.clip(low + (chosen.numpy() + 1) * (high - low) / 2, low, high)
    np.testing.assert_allclose(answer.action, expected, atol=1e-6)

    lstm = CheckpointInference(rllib_checkpoint.read(trained / "lstm"), extras=True)
    (answer,) = lstm.act("default_policy", [query(observation=np.zeros(4, np.float32))])
    assert {name: part.shape for name, part in answer.extras["state_out"].items()} == {
        "h": (1, 8),
        "c": (1, 8),
    }


def test_states_go_from_answer_to_question(trained):
    inference = CheckpointInference(rllib_checkpoint.read(trained / "lstm"))
    seen = query(observation=np.ones(4, np.float32))
    (first,) = inference.act("default_policy", [seen])
    (second,) = inference.act("default_policy", [replace(seen, state=first.state)])
    assert not np.allclose(first.state, second.state)
    with pytest.raises(InvalidArgument, match="16 numbers, not 3"):
        inference.act("default_policy", [replace(seen, state=np.zeros(3, np.float32))])


def test_masks_forbid(trained):
    folder = trained / "masked" / "checkpoints" / "000002" / "policy"
    inference = CheckpointInference(portable.read(folder))
    (spec,) = inference.policies()
    assert spec.has_action_mask
    only = [np.arange(5) == number for number in range(5)]
    questions = [query(observation=2, masks=(mask,), greedy=False) for mask in only]
    answers = inference.act("default_policy", questions)
    assert [answer.action for answer in answers] == [0, 1, 2, 3, 4]
    (free,) = inference.act("default_policy", [query(observation=2)])
    assert 0 <= free.action < 5


def test_a_hundred_swaps_under_load_mix_nothing(recipe):
    """Every batch is by one version, says which, and is that one's answer; none fails."""
    inference = CheckpointInference(marked(recipe, 1), keep=3)
    stop = threading.Event()
    seen: list[set[int]] = [set(), set()]
    problems: list[Any] = []

    def ask(number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            questions = [query() for _ in range(int(rng.integers(1, 33)))]
            try:
                answers = inference.act("default_policy", questions)
            except FarsimError as error:
                problems.append(error)
                return
            versions = {answer.version for answer in answers}
            marks = {mark_of(answer.action) for answer in answers}
            if len(versions) != 1 or versions != marks:
                problems.append((versions, marks))
            seen[number] |= versions

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 102):
            assert inference.add(marked(recipe, number)) == number
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert len(seen[0] | seen[1]) > 10
    assert inference.versions("default_policy") == [99, 100, 101]
