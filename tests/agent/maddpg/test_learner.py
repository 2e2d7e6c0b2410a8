"""The losses and updates, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import nn

from agent.maddpg.learner import CRITIC_LOSS, MADDPGTorchLearner
from agent.maddpg.module import MADDPGModule
from tests.agent.maddpg.worlds import (
    ACTIONS,
    Approach,
    Diary,
    by_letter,
    config_for,
    learner_for,
    one_each,
    random_replay,
)

MAPPINGS = pytest.mark.parametrize("mapping", [one_each, by_letter])

#: Numbers in an observation and an action, for each agent of ``Diary``.
WIDTHS = {"a_0": 3 + 4, "a_1": 3 + 4, "b_0": 3 + 2, "c_0": 3 + 5}


def network(learner: MADDPGTorchLearner, module_id: str) -> MADDPGModule:
    return learner.module[module_id].unwrapped()  # type: ignore[return-value]


def weights(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in part.state_dict().items()}


def moved(part: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in part.state_dict().items())


def losses(learner: MADDPGTorchLearner, batch: MultiAgentBatch) -> dict[str, torch.Tensor]:
    """As in an update, without the update."""
    tensors = learner._convert_batch_type(batch).policy_batches
    torch.manual_seed(0)
    outputs = learner.module.forward_train(tensors)
    return learner.compute_losses(fwd_out=outputs, batch=tensors)


def make_constant(critic: nn.Module, value: float) -> None:
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    for estimate in critic.estimates:
        nn.init.constant_(estimate[-1].bias, value)


@MAPPINGS
def test_an_update_moves_networks_and_targets_follow(mapping: Any) -> None:
    config = config_for(Diary, mapping, tau=0.1)
    learner, replay = learner_for(config), random_replay(config, 100)
    modules = [network(learner, name) for name in sorted(config.policies)]
    before = [
        (weights(net), weights(target))
        for module in modules
        for net, target in module.get_target_network_pairs()
    ]

    learner.update(batch=replay.sample(32))

    pairs = [pair for module in modules for pair in module.get_target_network_pairs()]
    for (net, target), (old_net, old_target) in zip(pairs, before, strict=True):
        assert moved(net, old_net)
        for name, value in target.state_dict().items():
            expected = 0.1 * net.state_dict()[name] + 0.9 * old_target[name]
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("terminated", [False, True])
def test_the_target_looks_ahead_unless_the_episode_terminated(terminated: bool) -> None:
    config = config_for(Diary, one_each, gamma=0.9, critic_lr=0.0)
    learner, replay = learner_for(config), random_replay(config, 100)
    batch = replay.sample(32)
    for name in ACTIONS:
        make_constant(network(learner, name).critic, 2.0)
        make_constant(network(learner, name).target_critic, 3.0)
        batch[name]["rewards"][:] = 0.5
        batch[name]["terminateds"][:] = terminated

    results = learner.update(batch=batch)

    target = 0.5 if terminated else 0.5 + 0.9 * 3.0
    for name in ACTIONS:
        assert results[name][CRITIC_LOSS].peek() == pytest.approx((target - 2.0) ** 2, rel=1e-5)


def test_twin_critics_take_the_smaller_value() -> None:
    config = config_for(Diary, one_each, gamma=0.9, critic_lr=0.0, twin_critics=True)
    learner, replay = learner_for(config), random_replay(config, 100)
    batch = replay.sample(32)
    module = network(learner, "b_0")
    make_constant(module.critic, 2.0)
    make_constant(module.target_critic, 3.0)
    nn.init.constant_(module.target_critic.estimates[1][-1].bias, 1.0)
    batch["b_0"]["rewards"][:] = 0.5

    results = learner.update(batch=batch)

    loss = results["b_0"][CRITIC_LOSS].peek()
    assert loss == pytest.approx(2 * (0.5 + 0.9 * 1.0 - 2.0) ** 2, rel=1e-5)


@MAPPINGS
def test_the_actor_climbs_the_critic_without_moving_it(mapping: Any) -> None:
    """With a critic that is right there is nothing to learn but for the actor."""
    config = config_for(Diary, mapping, gamma=0.0, actor_logit_regularisation=0.0)
    learner = learner_for(config)
    batch = learner._convert_batch_type(random_replay(config, 100).sample(32))
    steps = {name: learner._step(name, part) for name, part in batch.policy_batches.items()}
    rests = learner.seen_by_others({name: step["before"] for name, step in steps.items()})
    for name, part in batch.policy_batches.items():
        with torch.no_grad():
            q = network(learner, name).critic(part["obs"], steps[name]["actions"], rests[name])
        part["rewards"] = q[0]

    gradients = learner.compute_gradients(losses(learner, batch))

    for name in config.policies:
        module = network(learner, name)
        assert all(gradients[parameter].abs().sum() > 0 for parameter in module.actor.parameters())
        assert all(not gradients[parameter].any() for parameter in module.critic.parameters())


def test_critics_see_everyone_or_their_own_agent() -> None:
    mixed = config_for(Diary, by_letter, centralised_critic=["a", "c"])
    learner = learner_for(mixed)

    inputs = {
        name: network(learner, name).critic.estimates[0][0].in_features for name in mixed.policies
    }

    everyone = sum(WIDTHS.values())
    assert inputs == {"a": everyone, "c": everyone, "b": WIDTHS["b_0"]}


def test_only_a_centralised_critic_depends_on_the_others() -> None:
    config = config_for(Diary, by_letter, centralised_critic=["a"])
    learner = learner_for(config)
    batch = random_replay(config, 100).sample(32)
    first = losses(learner, batch)

    batch["c"]["obs"][:] += 1.0
    second = losses(learner, batch)

    assert second["a"] != first["a"] and second["c"] != first["c"]
    assert second["b"] == first["b"]


def test_agents_that_share_a_module_are_alike_to_it() -> None:
    """The critic sees its owner first, so that exchanging the agents exchanges their values."""
    space = {"action_space": ACTIONS["b_0"]}
    config = config_for(Approach, lambda agent, *_: "team", space)
    learner = learner_for(config)
    batch = learner._convert_batch_type(random_replay(config, 100).sample(16))["team"]

    def values(order: list[int]) -> torch.Tensor:
        part = {name: column[:, order] for name, column in batch.items()}
        step = learner._step("team", part)
        rest = learner.seen_by_others({"team": step["before"]})["team"]
        return network(learner, "team").critic(part["obs"], step["actions"], rest)[0]

    torch.testing.assert_close(values([1, 0]), values([0, 1])[:, [1, 0]])


def test_policies_that_are_not_trained_stay_but_are_seen() -> None:
    config = config_for(Diary, by_letter)
    config.multi_agent(policies_to_train=["a"])
    learner, replay = learner_for(config), random_replay(config, 100)
    before = {name: weights(network(learner, name)) for name in "abc"}
    batch = replay.sample(32)
    first = losses(learner, batch)
    batch["b"]["obs"][:] += 1.0
    assert set(first) == {"a"} and losses(learner, batch)["a"] != first["a"]

    learner.update(batch=replay.sample(32))

    changed = {name for name in "abc" if moved(network(learner, name), before[name])}
    assert changed == {"a"}


def test_steps_without_an_agent_teach_it_nothing() -> None:
    config = config_for(Diary, by_letter)
    learner = learner_for(config)
    batch = random_replay(config, 100).sample(32)
    batch["a"]["valid"][:, 1] = False
    for column in ("obs", "new_obs", "actions", "rewards"):
        batch["a"][column][:, 1] = 0
    first = losses(learner, batch)

    # What stands in a masked place must not matter.
    batch["a"]["rewards"][:, 1] = 50.0
    batch["a"]["new_obs"][:, 1] = 50.0

    assert losses(learner, batch) == first
