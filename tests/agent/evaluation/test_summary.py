"""Seeds, statistics and tables of evaluations."""

import csv
import io
import math

import numpy as np
import pytest
from rich.console import Console

from agent.evaluation import chart, tables
from agent.evaluation.rollout import Episodes
from agent.evaluation.seeds import FIRST, evaluation_seeds
from agent.evaluation.summary import Estimate, Summary, write_csv


def episodes(returns: list[float], **infos: list[float]) -> Episodes:
    n = len(returns)
    return Episodes(
        np.array(returns),
        np.full(n, 10),
        np.zeros(n, bool),
        np.zeros(n, bool),
        {name: np.array(values) for name, values in infos.items()},
    )


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_evaluation_seeds_are_none_that_training_draws():
    seeds = evaluation_seeds(0, 500)
    assert len(set(seeds)) == 500
    # Env runners draw theirs as unsigned 32-bit numbers.
    assert min(seeds) >= FIRST > 2**32
    assert max(seeds) < 2**63


def test_evaluation_seeds_repeat_and_differ_by_seed():
    assert evaluation_seeds(3, 20) == evaluation_seeds(3, 20)
    assert evaluation_seeds(3, 10) == evaluation_seeds(3, 20)[:10]
    assert not set(evaluation_seeds(3, 20)) & set(evaluation_seeds(4, 20))


def test_an_estimate_is_a_mean_with_its_standard_error():
    estimate = Estimate.of(np.array([1.0, 2.0, 3.0, np.nan]))
    assert estimate.mean == 2.0
    assert estimate.error == pytest.approx(1 / math.sqrt(3))
    assert str(estimate) == "2.00 ± 0.58"
    assert str(Estimate.of(np.array([4.0]))) == "4.00"
    assert str(Estimate.of(None)) == "–"


def test_episodes_that_a_fault_cut_short_do_not_count():
    played = episodes([-10.0, -20.0, -1.0], slowdown=[2.0, 4.0, 1.0])
    played.faulty[2] = True
    played.truncated[2] = True
    summary = Summary.of("SJF", played)
    assert (summary.episodes, summary.faulty, summary.truncated) == (2, 1, 0)
    assert summary.total_return.mean == -15.0
    assert summary.slowdown.mean == 3.0


def test_episodes_are_joined_in_order():
    joined = Episodes.join([episodes([1.0], slowdown=[2.0]), episodes([3.0], other=[4.0])])
    np.testing.assert_array_equal(joined.returns, [1, 3])
    np.testing.assert_array_equal(joined.infos["slowdown"], [2, np.nan])
    np.testing.assert_array_equal(joined.infos["other"], [np.nan, 4])


def test_the_csv_has_a_column_for_each_standard_error_and_none_without_values(tmp_path):
    path = tmp_path / "evaluation.csv"
    write_csv([Summary.of("random", episodes([-1.0, -3.0]))], path)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["policy"] == "random"
    assert float(row["total_return"]) == -2.0
    assert float(row["total_return_se"]) == 1.0
    assert "slowdown" not in row
    assert "load" not in row


def test_slowdowns_that_leave_jobs_out_are_marked():
    complete = Summary.of("SJF", episodes([-1.0], slowdown=[4.0], jobs_unscheduled=[0.0]), 0.7)
    partial = Summary.of("idle", episodes([-1.0], slowdown=[1.0], jobs_unscheduled=[5.0]), 0.7)
    text = text_of(tables.comparison([complete, partial]))
    assert "4.00 " in text
    assert "1.00*" in text
    assert "1.00*" in text_of(tables.slowdown_by_load([complete, partial]))


def test_charts_are_pictures(tmp_path):
    summaries = [
        Summary.of("SJF", episodes([-1.0, -2.0], slowdown=[4.0, 5.0]), load) for load in (0.5, 0.7)
    ]
    chart.draw_loads(summaries, tmp_path / "loads.png", "title")
    chart.draw_bars(summaries[:1], tmp_path / "bars.png", "title")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
