"""Training files: what they may say, and what is said about mistakes."""

import math
from pathlib import Path

import pytest
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig

from agent.maddpg import MADDPGConfig
from agent.training import configuration, sampling
from agent.training.configuration import InvalidConfiguration
from agent.training.presets import preset
from farsim.errors import InvalidOption

EXAMPLES = Path(__file__).parents[3] / "examples"

GOOD = """\
algo: PPO
options: {new_job_rate: 0.7}
stop: {steps: 500_000, return: -90}
training:
  lr: 3e-4
  gamma: 0.9
env_runners: {num_envs_per_env_runner: 12}
"""


def test_a_training_file_sets_rllibs_own_settings():
    file = configuration.parse(GOOD, "good.yaml")
    config = PPOConfig()
    configuration.apply(config, file.sections)
    assert file.algo == "PPO"
    assert file.options == {"new_job_rate": 0.7}
    assert file.stop == {"steps": 500_000, "return": -90}
    assert (config.lr, config.gamma, config.num_envs_per_env_runner) == (3e-4, 0.9, 12)


def test_a_training_file_says_who_decides_for_whom():
    text = "policies: {hunters: team}\nmulti_agent: {policies_to_train: [team]}\n"
    file = configuration.parse(text, "good.yaml")
    config = PPOConfig()
    configuration.apply(config, file.sections)
    assert file.policies == {"hunters": "team"}
    assert config.policies_to_train == ["team"]


def test_a_training_file_says_how_to_sample():
    file = configuration.parse("sampling: {splits: 2, inference: numpy}\n", "good.yaml")
    assert file.sampling == {"splits": 2, "inference": "numpy"}


def test_several_agents_have_less_to_choose_from():
    sampling.check({"sample_ahead": True}, several_agents=True)
    with pytest.raises(InvalidOption, match="'splits' is for simulators with one agent"):
        sampling.check({"splits": 2}, several_agents=True)


def test_a_training_file_says_how_patient_connections_are():
    text = "connection: {resume_seconds: 2, request_seconds: 90.5}\n"
    file = configuration.parse(text, "good.yaml")
    assert file.connection == {"resume_seconds": 2, "request_seconds": 90.5}


def test_an_empty_file_and_empty_sections_change_nothing():
    assert configuration.parse("", "empty.yaml") == configuration.TrainingFile()
    assert configuration.parse("training:\n", "empty.yaml").sections == {"training": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training:\n  gamma: 0.9\n  lrr: 1\n", "bad.yaml, line 3: .*no 'lrr'; did you mean 'lr'"),
        ("trainig: {}", "bad.yaml, line 1: no section 'trainig'; did you mean 'training'"),
        ("training: {num_env_runners: 1}", "belongs to section 'env_runners'"),
        ("environment: {env: CartPole-v1}", "the simulator is an argument of farsim train"),
        ("rl_module: {rl_module_spec: x}", "use model_config"),
        ("stop: {stepz: 1}", "bad.yaml, line 1: 'stop' has no 'stepz'; did you mean 'steps'"),
        ("stop: {steps: many}", "'steps' is a number, not 'many'"),
        ("training:\n  lr: 1\n  lr: 2\n", "line 3: 'lr' is there twice"),
        (
            "algo: PPO\nconnection: {resume_second: 1}",
            "bad.yaml, line 2: no connection option 'resume_second'; did you mean 'resume_seconds'",
        ),
        ("sampling: {split: 2}", "no option 'split' of sampling; did you mean 'splits'"),
        ("sampling: {splits: 0}", "'splits' is a whole number from 1, not 0"),
        ("sampling: {splits: true}", "'splits' is a whole number from 1, not True"),
        ("sampling: {inference: jax}", "'inference' is torch or numpy, not 'jax'"),
        ("sampling: {sample_ahead: 1}", "'sample_ahead' is true or false, not 1"),
        ("connection: {resume_seconds: 0}", "'resume_seconds' is a positive number, not 0"),
        ("connection: {token: secret}", "'token' cannot be set here: use --token-file"),
        ("algo: PPO\npolicies: eech", "bad.yaml, line 2: policies are .*; did you mean 'each'"),
        ("multi_agent: {policies: [a]}", "use 'policies' at the top, or --policies"),
        ("training: [1, 2]", "section 'training' consists of 'name: value' lines"),
        ("just text", "a training file consists of 'name: value' lines"),
        ("training: {", "bad.yaml is no YAML"),
        ("env_runners: {num_envs_per_env_runner: 0}", "line 1: num_envs_per_env_runner: "),
    ],
)
def test_mistakes_are_errors_that_say_where_and_what(text, expected):
    with pytest.raises(InvalidConfiguration, match=expected):
        configuration.apply(PPOConfig(), configuration.parse(text, "bad.yaml").sections)


def test_settings_are_those_of_the_algorithm():
    file = configuration.parse("training: {clip_param: 0.3}", "ppo.yaml")
    configuration.apply(PPOConfig(), file.sections)
    with pytest.raises(InvalidConfiguration, match="section 'training' of DQN has no 'clip_param'"):
        configuration.apply(DQNConfig(), file.sections)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InvalidConfiguration, match=r"cannot read .*nothing\.yaml: No such file"):
        configuration.load(tmp_path / "nothing.yaml")


def test_the_example_for_many_agents_is_one_that_maddpg_takes():
    file = configuration.load(EXAMPLES / "particle-tag-maddpg.yaml")
    config = MADDPGConfig()
    configuration.apply(config, file.sections)
    assert file.policies == {"adversaries": "hunters", "agents": "prey"}
    assert config.centralised_critic == ["hunters"]


def test_the_example_has_the_built_in_settings():
    file = configuration.load(EXAMPLES / "deeprm-ppo.yaml")
    said = {
        section: {name: setting.value for name, setting in members.items()}
        for section, members in file.sections.items()
    }
    assert said == preset("deeprm", "PPO")
    assert math.isinf(said["training"]["vf_clip_param"])
