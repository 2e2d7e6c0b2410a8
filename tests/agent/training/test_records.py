"""The files that a run leaves, and the learning curve."""

import io
import json
import math
from pathlib import Path

import imageio.v3 as iio
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agent.training import learning_curve
from agent.training.display import display_on
from agent.training.iteration import Iteration, read
from agent.training.records import Records, read_progress
from agent.training.stopping import StopConditions


def iteration(number: int, **infos: float) -> Iteration:
    return Iteration(
        number=number,
        steps=100 * number,
        seconds=float(number),
        new_steps=100 * number,
        steps_per_second=100.0,
        mean_return=-10.0 / number,
        mean_length=5.0,
        episodes=2,
        infos=infos,
        losses={"entropy": 0.5},
    )


def test_columns_that_come_late_are_empty_before(tmp_path: Path):
    with Records(tmp_path) as records:
        records.add(iteration(1), {"training_iteration": 1})
        records.add(iteration(2, slowdown=3.5), {"training_iteration": 2})
    rows = read_progress(tmp_path / "progress.csv")
    assert [row["info/slowdown"] for row in rows] == ["", "3.5"]
    assert [row["return_mean"] for row in rows] == ["-10.0", "-5.0"]


def test_a_folder_with_records_is_continued(tmp_path: Path):
    for number in (1, 2):
        with Records(tmp_path) as records:
            records.add(iteration(number, slowdown=2.0), {"training_iteration": number})
    rows = read_progress(tmp_path / "progress.csv")
    assert [row["iteration"] for row in rows] == ["1", "2"]
    lines = (tmp_path / "result.json").read_text().splitlines()
    assert [json.loads(line)["training_iteration"] for line in lines] == [1, 2]


def test_results_are_json_without_the_configuration(tmp_path: Path):
    with Records(tmp_path) as records:
        records.add(iteration(1), {"config": object(), "loss": math.nan, "env": {"a": 1}})
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == {"loss": ".nan", "env": {"a": 1}}


def test_tensorboard_events_are_over_environment_steps(tmp_path: Path):
    with Records(tmp_path) as records:
        records.add(iteration(1, slowdown=2.0), {})
        records.add(iteration(2, slowdown=1.5), {})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("info/slowdown")]
    assert scalars == [(100, 2.0), (200, 1.5)]


def test_the_learning_curve_is_drawn_once_there_are_returns(tmp_path: Path):
    path = tmp_path / "curve.png"
    assert not learning_curve.draw([{"steps": "1", "return_mean": ""}], path, "nothing yet")
    rows = [{"steps": "1", "return_mean": "-3", "info/slowdown": "2"}]
    assert learning_curve.draw(rows, path, "some", {"SJF": {"info/slowdown": 4.8}})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_curve_has_a_panel_for_each_group(tmp_path: Path):
    row = {"steps": "1", "return_mean": "-3"}
    groups = {"group_return/hunters": "4", "group_return/prey": "-7"}
    widths = []
    for number, rows in enumerate(([row], [row | groups])):
        path = tmp_path / f"{number}.png"
        learning_curve.draw(rows, path, "tag", {"random": {"group_return/prey": -9.0}})
        widths.append(iio.imread(path).shape[1])
    assert widths[1] == 3 * widths[0]


def test_several_agents_have_returns_and_losses_of_their_own():
    result = {
        "training_iteration": 1,
        "env_runners": {
            "num_env_steps_sampled_lifetime": 50,
            "episode_return_mean": 3.0,
            "agent_episode_returns_mean": {"prey_0": -5.0, "hunter_1": 2.0, "hunter_0": 6.0},
            "info": {"hunters": {"collisions_mean": 0.1, "distance_last": 2.0}},
        },
        "learners": {
            "__all_modules__": {"num_env_steps_trained": 5},
            "prey": {"policy_loss": 0.1, "num_module_steps_trained": 5},
            "hunters": {"policy_loss": 0.2},
        },
    }
    groups = {"hunters": ("hunter_0", "hunter_1"), "prey": ("prey_0",)}
    found = read(
        result, seconds=1, iteration_seconds=1, steps_before=0, steps_at_start=0, groups=groups
    )
    row = found.columns()
    assert row["return_mean"] == 3.0
    assert (row["agent_return/hunter_0"], row["agent_return/prey_0"]) == (6.0, -5.0)
    assert (row["group_return/hunters"], row["group_return/prey"]) == (4.0, -5.0)
    assert (row["learner/prey/policy_loss"], row["learner/hunters/policy_loss"]) == (0.1, 0.2)
    assert not any("num_" in name or "__all" in name for name in found.losses)
    console = Console(file=io.StringIO(), width=200)
    with display_on(console, StopConditions(steps=100)) as display:
        display.show(found)
    line = console.file.getvalue()
    assert "return 3.0  hunters 4.0  prey -5.0" in line
    assert "hunters distance 2.00  hunters collisions 0.100" in line


def test_animations_are_pictures_in_tensorboard(tmp_path: Path):
    with Records(tmp_path) as records:
        records.add_animation("film", b"GIF89a...", 20, 30, 400)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("film")
    assert (image.step, image.height, image.width) == (400, 20, 30)
    assert image.encoded_image_string == b"GIF89a..."


def test_iterations_are_read_from_rllibs_results():
    result = {
        "training_iteration": 7,
        "env_runners": {
            "num_env_steps_sampled_lifetime": 900,
            "episode_return_mean": -3.0,
            "num_episodes": 4,
            "faults": 2.0,
            "info": {"slowdown": 2.5, "a": {"b": 1.0}, "none": math.nan},
        },
        "learners": {"default_policy": {"entropy": 0.1, "num_module_steps_trained": 5}},
    }
    read_back = read(result, seconds=10, iteration_seconds=2, steps_before=500, steps_at_start=300)
    assert read_back.number == 7
    assert (read_back.steps, read_back.new_steps) == (900, 600)
    assert read_back.steps_per_second == 200
    assert read_back.faults == 2
    assert read_back.infos == {"slowdown": 2.5, "a/b": 1.0}
    assert read_back.losses == {"entropy": 0.1}
