"""What the configuration refuses, and how."""

from __future__ import annotations

from typing import Any

import pytest
from gymnasium.spaces import Box, Dict, Discrete

from agent.maddpg import MADDPG, MADDPGConfig
from agent.models.encoding import UnsupportedSpace
from farsim.errors import InvalidOption
from tests.agent.maddpg.worlds import ACTIONS, Diary, by_letter, config_for, learner_for, one_each


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"tau": 0.0}, "tau"),
        ({"tau": 1.5}, "tau"),
        ({"env_steps_per_update": 0}, "env_steps_per_update"),
        ({"gumbel_temperature": -1.0}, "gumbel_temperature"),
        ({"actor_logit_regularisation": -1e-3}, "actor_logit_regularisation"),
        ({"centralised_critic": ["a", "z"]}, "centralised_critic"),
        ({"replay_capacity": 10}, "num_steps_sampled_before_learning_starts"),
        ({"lr": 1e-3}, "lr"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    settings: dict[str, Any], subject: str
) -> None:
    with pytest.raises(InvalidOption, match=subject) as raised:
        config_for(Diary, by_letter, **settings).validate()
    assert raised.value.subject == subject


def test_actions_are_not_to_be_normalised() -> None:
    config = config_for(Diary, by_letter)
    config.environment(normalize_actions=True)
    with pytest.raises(InvalidOption, match="normalize_actions=False"):
        config.validate()


def test_one_learner_at_most() -> None:
    config = config_for(Diary, by_letter)
    config.learners(num_learners=2)
    with pytest.raises(InvalidOption, match="num_learners"):
        config.validate()


def test_it_is_for_several_agents() -> None:
    with pytest.raises(InvalidOption, match="multi_agent"):
        MADDPGConfig().environment("CartPole-v1").validate()


def test_agents_that_differ_cannot_share() -> None:
    config = config_for(Diary, lambda agent, *_: "all")
    with pytest.raises(InvalidOption, match="'a_0' and 'b_0' cannot share policy 'all'"):
        learner_for(config)


def test_policies_and_mapping_must_agree() -> None:
    config = config_for(Diary, by_letter)
    config.multi_agent(policies={"a", "b", "c", "d"})
    with pytest.raises(InvalidOption, match="policy_mapping_fn") as raised:
        config.cast()
    assert "'d'" in str(raised.value)


def test_the_mapping_must_do_without_an_episode() -> None:
    config = config_for(Diary, by_letter)
    config.multi_agent(policy_mapping_fn=lambda agent, episode, **_: episode.id_)
    with pytest.raises(InvalidOption, match="without an episode"):
        config.cast()


def test_all_agents_must_be_known() -> None:
    config = config_for(Diary, by_letter)
    config.environment(observation_space=Box(0, 1, (3,)))
    with pytest.raises(InvalidOption, match="Dict spaces"):
        config.cast()


@pytest.mark.parametrize("space", [Discrete(3), Dict(x=Box(0, 1, (2,)))], ids=str)
def test_observations_must_be_numbers(space: Any) -> None:
    config = config_for(Diary, one_each)
    seen = dict.fromkeys(ACTIONS, space)
    config.environment(observation_space=Dict(seen))
    with pytest.raises(UnsupportedSpace, match="MADDPG observes a Box"):
        learner_for(config)


def test_a_setting_may_differ_for_a_policy() -> None:
    config = config_for(Diary, by_letter)
    config.multi_agent(
        algorithm_config_overrides_per_module={"b": MADDPGConfig.overrides(actor_lr=0.25)}
    )
    learner = learner_for(config)
    rates = {name: learner.get_optimizer(name, "actor").param_groups[0]["lr"] for name in "abc"}
    assert rates == {"a": 1e-3, "b": 0.25, "c": 1e-3}


def test_the_algorithm_is_its_configurations() -> None:
    assert MADDPGConfig().algo_class is MADDPG
    assert isinstance(MADDPG.get_default_config(), MADDPGConfig)
