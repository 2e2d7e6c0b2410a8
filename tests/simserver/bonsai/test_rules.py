import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from agent.remote_vector_env import RemoteVectorEnv
from farsim.errors import FarsimError
from simserver.gateway.bonsai.kind import Kind, Rules
from simserver.gateway.bonsai.rules_file import read_rules
from tests.simserver.bonsai.running import Puppet, gateway, number, struct

DESCRIPTION = {
    "config": struct(
        number("seed", start=0, stop=2**31, step=1),
        {"name": "fuel", "type": {"category": "String", "values": ["gas", "oil"]}},
        {"name": "sizes", "type": {"category": "Array", "length": 2, "type": number("")["type"]}},
    ),
    "state": struct(number("heat"), {"name": "note", "type": {"category": "String"}}),
    "action": struct(number("burn", start=0, stop=1, step=1)),
}
KINDS = """\
Boiler:
  reward: goals:reward
  terminal: state.heat > 3
  observe: [heat]
  seed_field: seed
  options: {fuel: oil, sizes: [1, 2]}
  interface: boiler.json
Other:
  reward: 1
"""
GOALS = """\
def reward(state, previous, action, step, halted):
    return state["heat"] - previous["heat"] - 10 * action["burn"] + 100 * step
"""


def test_kinds_from_a_file_with_a_function_of_the_users(tmp_path):
    (tmp_path / "kinds.yaml").write_text(KINDS)
    (tmp_path / "goals.py").write_text(GOALS)
    boiler = json.dumps({"name": "Boiler", "description": DESCRIPTION})
    (tmp_path / "boiler.json").write_text(boiler)
    arguments = ("--simulators", "kinds.yaml", "--idle-seconds", "0.1")
    with gateway(*arguments, folder=tmp_path) as running, ThreadPoolExecutor(1) as learner:
        # Its own description is none that could be used; the file has another.
        puppet = Puppet(running, {"state": "?"}, name="Boiler")
        puppet.ask(state={"heat": 0, "note": "cold"})
        env = RemoteVectorEnv(running.address, "Boiler")
        assert list(env.single_observation_space) == ["heat"]
        resetting = learner.submit(env.reset, seed=7)
        config = puppet.until("EpisodeStart", state={"heat": 0}).episode_start.config
        assert config == {"fuel": "oil", "sizes": [1.0, 2.0], "seed": config["seed"]}
        puppet.ask(state={"heat": 1, "note": "warm"})
        resetting.result(30)
        stepping = learner.submit(env.step, {"burn": np.array([1])})
        puppet.until("EpisodeStep", state={"heat": 1})
        puppet.ask(state={"heat": 3.5})
        seen, reward, terminated, *_ = stepping.result(30)
        assert (seen["heat"], reward, terminated) == (3.5, 2.5 - 10 + 100, True)
        again = learner.submit(env.reset, seed=7)
        assert puppet.until("EpisodeStart", state={"heat": 0}).episode_start.config == config
        puppet.ask(state={"heat": 1})
        again.result(30)
        env.close()
        puppet.client.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Adder: {rewrad: 1}", "'Adder' has no rule 'rewrad'; did you mean 'reward'?"),
        ("Adder: 1", "'Adder' needs rules"),
        ("[1]", "expected the rules for each kind"),
        ("Adder: {observe: value}", "observe of 'Adder' can not be 'value'"),
        ("Adder: {interface: nowhere.json}", "is no interface description"),
    ],
)
def test_files_that_say_something_else(tmp_path, text, message):
    path = tmp_path / "kinds.yaml"
    path.write_text(text)
    with pytest.raises(FarsimError, match=message.replace("?", r"\?")):
        read_rules(path)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"options": {"fule": "gas"}}, "no option 'fule'; did you mean 'fuel'"),
        ({"options": {"fuel": "coal"}}, "option 'fuel' takes '' or 'gas' or 'oil', not 'coal'"),
        ({"seed_field": "sed"}, "no option 'sed'; did you mean 'seed'"),
        ({"observe": ("heta",)}, "observe: no field 'heta' in state; did you mean 'heat'"),
        ({"reward": "heta"}, "reward: no field 'heta' in state; did you mean 'heat'"),
    ],
)
def test_rules_that_do_not_fit_the_simulator(rules, message):
    with pytest.raises(FarsimError, match=message):
        Kind("Boiler", DESCRIPTION, Rules(**rules))


def test_names_of_values_are_drawn_unless_one_is_given():
    kind = Kind("Boiler", DESCRIPTION, Rules(seed_field="seed"))
    assert [parameter.name for parameter in kind.parameters] == ["fuel"]
    random = np.random.default_rng(1)
    assert {kind.fields[0].draw("", random)[0] for _ in range(50)} == {"gas", "oil"}
    assert kind.fields[0].draw("oil", random) == ("oil", "oil")
