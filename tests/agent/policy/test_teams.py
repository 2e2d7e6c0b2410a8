"""Farsim's checkpoints of several agents: what is served is what ``farsim evaluate`` plays."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gymnasium.spaces import Dict

from agent.description import Group
from agent.evaluation.multi_agent.learned import LearnedGroup
from agent.group_step import GroupStep
from agent.live.server import PolicyServer
from agent.models import masking
from agent.policy import loading
from agent.policy.export import export
from agent.policy.inference import CheckpointInference
from agent.policy.onnx_graph import leaves_of
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import Checkpoint
from farsim import spaces
from farsim.errors import SpaceMismatch
from farsim.live import Group as LiveGroup
from farsim.live import LiveClient
from tests.agent.policy.test_serve import serving
from tests.agent.policy.trained import TEAM_RUNS

STEPS = 8
TOLERANCE = 1e-6


def inference_of(folder: Path) -> CheckpointInference:
    """What is served of a run, without unpickling."""
    return CheckpointInference(loading.load(loading.find(folder)))


def groups_of(checkpoint: Checkpoint) -> list[Group]:
    """The simulator's, from what the checkpoint says of it."""
    manifest = checkpoint.manifest
    assert isinstance(manifest.observation_space, Dict)
    assert isinstance(manifest.action_space, Dict)
    found = []
    for name, agents in manifest.groups.items():
        observed = manifest.observation_space[agents[0]]
        acted = manifest.action_space[agents[0]]
        masked = masking.is_masked(observed)
        found.append(Group(name, agents, masking.unmasked_space(observed), acted, masked))
    return found


def seen_by(space: Any, rows: int, seed: int) -> Any:
    """A batch of random observations."""
    space.seed(seed)
    return spaces.batch(space, [space.sample() for _ in range(rows)])


def moment(group: Group, seed: int) -> GroupStep:
    """What the agents of a group see at one time."""
    rows, nothing = len(group.agents), np.zeros(len(group.agents))
    masks: Any = ()
    if group.has_action_mask:
        rng = np.random.default_rng(seed)
        (width,) = spaces.mask_widths(group.action_space)
        mask = rng.random((rows, width)) < 0.3
        mask[:, rng.integers(width)] = True
        masks = (mask,)
    present = np.ones(rows, np.bool_)
    return GroupStep(
        observation=seen_by(group.observation_space, rows, seed),
        reward=nothing,
        terminated=~present,
        truncated=~present,
        present=present,
        acting=present,
        action_masks=masks,
        infos={},
        final_rows=np.zeros(0, np.int64),
        final_observation=None,
        final_infos={},
    )


@pytest.mark.parametrize("name", TEAM_RUNS)
def test_what_is_served_over_the_wire_is_what_is_evaluated(trained, name):
    checkpoint = checkpoints.find(trained / name)
    groups = groups_of(checkpoint)
    evaluated = [LearnedGroup(checkpoint, group, greedy=True, seed=0) for group in groups]
    for learned in evaluated:
        learned.begin(1)
    declared = [
        LiveGroup(
            group.observation_space,
            group.action_space,
            group.agents,
            group.name,
            group.has_action_mask,
        )
        for group in groups
    ]
    with (
        PolicyServer(inference_of(trained / name)) as server,
        LiveClient(server.address, groups=declared, sampling="greedy") as client,
        client.episode() as episode,
    ):
        for time in range(STEPS):
            seen: dict[str, Any] = {}
            allowed: dict[str, Any] = {}
            expected: dict[str, Any] = {}
            for group, learned in zip(groups, evaluated, strict=True):
                step = moment(group, time)
                rows = len(group.agents)
                singles = spaces.unbatch(group.observation_space, step.observation, rows)
                seen.update(zip(group.agents, singles, strict=True))
                expected.update(zip(group.agents, learned.act(step), strict=True))
                if step.action_masks:
                    allowed.update(zip(group.agents, step.action_masks[0], strict=True))
            actions = episode.observe(seen, action_mask=allowed)
            assert actions.keys() == expected.keys()
            for agent, action in actions.items():
                np.testing.assert_allclose(action, expected[agent], rtol=0, atol=TOLERANCE)


def test_each_agent_has_the_policy_that_it_was_trained_with(trained):
    for name, expected in (
        (
            "maddpg",
            {"adversaries": ("adversary_0", "adversary_1", "adversary_2"), "agents": ("agent_0",)},
        ),
        (
            "maddpg-continuous",
            {agent: (agent,) for agent in ("adversary_0", "adversary_1", "adversary_2", "agent_0")},
        ),
    ):
        specs = inference_of(trained / name).policies()
        assert {spec.name: spec.agents for spec in specs} == expected


def test_actions_are_scaled_as_in_training(trained):
    """MADDPG's networks act between the bounds; those of RLlib's algorithms in -1..1."""
    for name in ("maddpg-continuous", "mappo-continuous", "ppo"):
        policies = loading.load(loading.find(trained / name)).policies
        assert {policy.unsquashes for policy in policies} == {not name.startswith("maddpg")}


@pytest.mark.parametrize("name", TEAM_RUNS)
def test_models_of_each_policy_say_what_it_says(trained, tmp_path, name):
    for policy, network in inference_of(trained / name).current.networks.items():
        export(network, tmp_path / f"{policy}.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / f"{policy}.onnx"))
        space = network.observation_space
        seen = seen_by(space, 5, 6)
        given, mask = leaves_of(space, seen), None
        if network.has_action_mask:
            (width,) = spaces.mask_widths(network.action_space)
            mask = np.eye(width, dtype=np.float32)[np.arange(5) % width]
            given.append(mask)
        names = [port.name for port in session.get_inputs()]
        (action,) = session.run(["action"], dict(zip(names, given, strict=True)))
        np.testing.assert_allclose(action, network.act(seen, mask).actions, atol=1e-4)


def test_a_team_is_served_by_the_command(trained, tmp_path):
    """Over gRPC and HTTP, and refused to simulators with other spaces."""
    seen = np.linspace(-1, 1, 16).astype(np.float32)
    (expected,) = (
        inference_of(trained / "maddpg").current.networks["adversaries"].act(seen[None]).actions
    )
    with serving(tmp_path, trained / "maddpg", "--http", 0) as server:
        assert "adversaries (adversary_0, adversary_1, adversary_2)" in server.log.read_text()
        with LiveClient(server.addresses[0]) as client, client.episode() as episode:
            assert episode.observe({"adversary_1": seen}) == {"adversary_1": expected}

        def post(**question: Any) -> Any:
            connection = http.client.HTTPConnection(server.addresses[1], timeout=60)
            connection.request(
                "POST", "/act", json.dumps({"observation": seen.tolist(), **question})
            )
            reply = json.loads(connection.getresponse().read())
            return reply.get("error", reply)

        assert post(agent="adversary_2") == post(policy="adversaries")
        answer = post(agent="adversary_2", policy="adversaries")
        assert answer == {"action": expected, "policy": "adversaries", "version": 1}
        assert "not 'agents'" in post(agent="adversary_2", policy="agents")["message"]
        assert "no policy here acts for agent 'adversary_3'" in post(agent="adversary_3")["message"]
        assert "name the policy" in post()["message"]
        with pytest.raises(SpaceMismatch, match="adversaries"):
            (group, *_) = groups_of(checkpoints.find(trained / "maddpg-continuous"))
            LiveClient(
                server.addresses[0],
                groups=[LiveGroup(group.observation_space, group.action_space, group.agents)],
            )
