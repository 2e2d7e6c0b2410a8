"""``farsim train particle/...`` as users run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agent.training import checkpoint as checkpoints
from agent.training.records import read_progress
from tests.agent.training import command
from tests.agent.training.command import Workplace, workplace
from tests.servers import Serving, serving

TAG = "particle/simple_tag"

#: An update for each of 100 steps, of which the first 100 are without.
QUICK = """\
training:
  num_steps_sampled_before_learning_starts: 100
  train_batch_size_per_learner: 32
  env_steps_per_update: 100
env_runners: {num_envs_per_env_runner: 8}
reporting: {min_sample_timesteps_per_iteration: 400}
rl_module: {model_config: {fcnet_hiddens: [16]}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("train")) as place:
        place.quick.write_text(QUICK)
        yield place


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(TAG) as server:
        yield server


@pytest.fixture(scope="module")
def tag(place: Workplace, server: Serving) -> tuple[Path, str]:
    """A run of two iterations, stopped by the environment, and what it printed."""
    out = place.folder / "tag"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSIM_STOP_STEPS", "800")
        output = place.run(
            *(
                "train",
                TAG,
                "--sims",
                server.address,
                "--config",
                place.quick,
                "--seed",
                5,
                "--out",
                out,
            ),
            *("--policies", "{adversaries: hunters, agent_0: prey}", "--video-every", 2),
        )
    return out, output


def test_a_run_tells_what_every_side_earns(tag):
    out, output = tag
    assert "MADDPG on particle/simple_tag" in output
    assert "fork" not in output
    description = json.loads((out / "run.json").read_text())
    assert description["stopped_because"] == "800 steps are done"
    assert description["policies"] == {
        "adversary_0": "hunters",
        "adversary_1": "hunters",
        "adversary_2": "hunters",
        "agent_0": "prey",
    }
    row = read_progress(out / "progress.csv")[-1]
    agents = [float(row[f"agent_return/{agent}"]) for agent in description["policies"]]
    assert float(row["return_mean"]) == pytest.approx(sum(agents))
    assert float(row["group_return/adversaries"]) == pytest.approx(sum(agents[:3]) / 3)
    assert float(row["group_return/agents"]) == pytest.approx(agents[3])
    assert float(row["info/adversaries/collisions_mean"]) >= 0
    assert row["learner/hunters/critic_loss"] and row["learner/prey/critic_loss"]
    assert f"adversaries {float(row['group_return/adversaries']):.1f}" in output
    events = EventAccumulator(str(out))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/return_mean", "group_return/agents", "agent_return/adversary_1"} <= tags
    assert {"info/adversaries/collisions_mean", "learner/prey/policy_loss"} <= tags


def test_a_run_leaves_videos(tag):
    out, _ = tag
    assert [path.name for path in (out / "videos").iterdir()] == ["000002.mp4"]
    assert len(iio.imread(out / "videos" / "000002.mp4")) == 26
    events = EventAccumulator(str(out))
    events.Reload()
    assert [image.step for image in events.Images("greedy_episode")] == [800]


def test_resuming_goes_on_with_every_policy(place, server, tag):
    before, _ = tag
    out = place.folder / "resumed"
    output = place.here(
        *("train", "--resume", before, "--sims", server.address),
        *("--stop-steps", 1200, "--out", out),
    )
    assert "iteration 3  steps 1,200" in output
    old, new = (checkpoints.find(run).manifest for run in (before, out))
    assert new.steps == 1200
    assert (new.policies, new.groups, new.settings) == (old.policies, old.groups, old.settings)
    assert all(path.is_dir() for path in checkpoints.find(out).module_paths.values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--policies", "each"], "leave the policies out, or start anew"),
        (["--algo", "PPO"], "was trained with MADDPG and can not go on with PPO"),
        (["--option", "num_good=2"], "was trained for other agents"),
    ],
    ids=["policies", "algorithm", "agents"],
)
def test_resuming_with_something_else_is_an_error(place, server, tag, arguments, expected):
    out = place.folder / "none"
    output = place.here(
        *("train", "--resume", tag[0], "--sims", server.address, *arguments, "--out", out), code=1
    )
    assert expected in output
    assert "Traceback" not in output
    assert not out.exists()


def test_without_pictures_there_is_one_warning_and_training_goes_on(place, shared_server):
    out, quick = place.folder / "adder", place.folder / "ppo.yaml"
    quick.write_text(command.QUICK)
    output = place.here(
        *("train", "adder", "--sims", shared_server.address, "--config", quick),
        *("--stop-steps", 1, "--out", out, "--video-every", 1),
    )
    assert output.count("no videos") == 1
    assert "simulator 'adder' gives no pictures" in output
    assert not (out / "videos").exists()
