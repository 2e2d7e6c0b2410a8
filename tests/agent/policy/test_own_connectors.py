"""Checkpoints with connectors of a user's own, which only RLlib's pipeline can carry out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.live.inference import Query
from agent.live.policies import Policies
from agent.live.states import from_bytes, to_bytes
from agent.policy import export, loading, portable, rllib_checkpoint
from agent.policy.export import NotExportable
from agent.policy.inference import CheckpointInference
from agent.policy.loading import UntrustedCheckpoint
from agent.policy.recipe import NotPortable
from agent.policy.runtime import PolicyRuntime, Settings
from farsim.cli import app
from tests.agent.policy.reference import Reference
from tests.agent.policy.test_parity import check, observations, play

OWN = {"own": "Scaled", "own-lstm": "Scaled", "own-back": "Reluctant"}


def inference(folder: Path) -> CheckpointInference:
    return CheckpointInference(rllib_checkpoint.read(folder))


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", OWN)
def test_actions_are_those_of_rllib(trained, name, greedy):
    recipe = rllib_checkpoint.read(trained / name)
    network = CheckpointInference(recipe).current.networks["default_policy"]
    seen = observations(network.observation_space)
    expected = Reference(trained / name, recipe.steps).single(seen, greedy)

    answers = play(network, seen, greedy)

    check(answers, expected, greedy)
    for mine, theirs in zip(answers, expected, strict=True):
        np.testing.assert_allclose(mine.actions[0], theirs["actions_for_env"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_a_batch_is_as_good_as_single_rows(trained, name):
    served = inference(trained / name)
    network = served.current.networks["default_policy"]
    seen = observations(network.observation_space)
    queries = [Query(one, (), None, True, None) for one in seen]
    together = served.act("default_policy", queries)
    for query, mine in zip(queries, together, strict=True):
        (alone,) = served.act("default_policy", [query])
        np.testing.assert_allclose(mine.action, alone.action, rtol=1e-5, atol=1e-5)


def test_a_state_that_went_over_the_wire_goes_on(trained):
    served = inference(trained / "own-lstm")
    seen = observations(served.current.networks["default_policy"].observation_space)
    expected = play(served.current.networks["default_policy"], seen, greedy=True)
    state: Any = None
    for one, theirs in zip(seen, expected, strict=True):
        (answer,) = served.act("default_policy", [Query(one, (), state, True, None)])
        np.testing.assert_allclose(answer.state, theirs.states[0], rtol=0, atol=1e-6)
        state = from_bytes("default_policy", to_bytes("default_policy", answer.state))


def test_what_is_done_is_said(trained, caplog):
    with caplog.at_level(logging.WARNING, "agent.policy"):
        runtime = PolicyRuntime(Settings(trained / "own", trust=True))
    note = "through RLlib's own connector pipeline for Scaled"
    assert note in caplog.text
    (described,) = Policies(runtime.inference).describe()
    assert described.checkpoint == f"{trained / 'own'}, {note}"


def test_without_trust_it_is_refused_and_the_option_named(trained):
    with pytest.raises(UntrustedCheckpoint, match="say --trust"):
        loading.load(loading.find(trained / "own"))
    result = CliRunner().invoke(app, ["policy", str(trained / "own")])
    assert result.exit_code != 0 and "--trust" in result.output


def test_no_other_form_can_be_had(trained, tmp_path):
    with pytest.raises(NotPortable, match="the connectors Scaled are your own"):
        portable.write(rllib_checkpoint.read(trained / "own"), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    with pytest.raises(NotExportable, match="Reluctant are your own"):
        export.export_to(trained / "own-back", True, tmp_path / "model.onnx")


def test_a_connector_that_looks_back_is_refused(trained):
    recipe = rllib_checkpoint.read(trained / "own-previous")
    with pytest.raises(NotPortable, match="asks for earlier observations"):
        CheckpointInference(recipe)
