"""The heuristics against every recorded choice, and against each other."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.deeprm import heuristics
from agent.deeprm.observation import Cluster, CompactObservation
from agent.remote_vector_env import RemoteVectorEnv
from agent.session import Each, Session
from tests.servers import Serving, serving

REFERENCE = Path(
    os.environ.get("FARSIM_REFERENCE", Path(__file__).parents[1] / "data" / "reference")
)
TRACES = sorted((REFERENCE / "deeprm").glob("*.npz"))
TRACES = [path for path in TRACES if not path.name.startswith("sequences_")]


class Trace:
    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path)
        self.parameters = json.loads(str(self.arrays["params_json"]))
        self.layout = CompactObservation.from_options(
            dict.fromkeys(CompactObservation.__dataclass_fields__, 0) | self.parameters
        )

    def before(self) -> np.ndarray:
        """The observation before every step: each episode has one more than it has steps."""
        steps = self.arrays["episode_num_steps"]
        episode = np.repeat(np.arange(len(steps)), steps)
        return self.arrays["obs_compact"][np.arange(steps.sum()) + episode]


@pytest.fixture(params=TRACES, ids=lambda path: path.stem)
def trace(request) -> Trace:
    return Trace(request.param)


def test_reference_deeprm_has_traces():
    assert TRACES, f"no traces under {REFERENCE / 'deeprm'}"


def test_reference_deeprm_choices(trace):
    cluster = trace.layout.read(trace.before())
    sjf = heuristics.shortest_job_first(cluster)
    np.testing.assert_array_equal(sjf, trace.arrays["sjf_action"])
    np.testing.assert_array_equal(heuristics.packer(cluster), trace.arrays["packer_action"])
    for column, knob in enumerate(trace.parameters["tetris_knobs"]):
        np.testing.assert_array_equal(
            heuristics.combined(cluster, knob), trace.arrays["tetris_action"][:, column]
        )


def test_reference_deeprm_fits_now(trace):
    cluster = trace.layout.read(trace.before())
    np.testing.assert_array_equal(cluster.fits_now(), trace.arrays["fits_now_mask"])


def test_reference_deeprm_normalized_observations_give_the_same_choices(trace):
    layout = CompactObservation(**(trace.layout.__dict__ | {"normalize_compact": True}))
    raw = trace.before()
    normalized = layout.read(raw / layout.scale())
    for name, value in trace.layout.read(raw).__dict__.items():
        np.testing.assert_array_equal(getattr(normalized, name), value)


@pytest.fixture(scope="module")
def deeprm() -> Iterator[Serving]:
    with serving("deeprm") as server:
        yield server


def published(num_nw: int, end: str, rate: float) -> dict[str, dict[str, str]]:
    """The rows of ``baselines.csv`` for deterministic policies, by policy."""
    path = REFERENCE / "deeprm" / "baselines.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (int(row["num_nw"]), row["end"]) == (num_nw, end)
            and float(row["new_job_rate"]) == rate
        ]
    return {row["policy"]: row for row in rows if row["policy"] != "Random"}


def choose(policy: str, state: Cluster) -> np.ndarray:
    if policy == "SJF":
        return heuristics.shortest_job_first(state)
    if policy == "Packer":
        return heuristics.packer(state)
    return heuristics.combined(state, float(policy.removeprefix("Tetris(knob=").rstrip(")")))


@pytest.mark.parametrize(
    ("num_nw", "end", "rate"),
    [(10, "all_done", 0.7), (10, "no_new_job", 0.7), (5, "all_done", 0.3), (5, "no_new_job", 1.0)],
)
def test_reference_deeprm_baselines(deeprm, num_nw, end, rate):
    rows = published(num_nw, end, rate)
    count = 200
    options = {
        "num_nw": num_nw,
        "end": end,
        "new_job_rate": rate,
        "mode": "reference",
        "jobs": "legacy",
        "num_ex": count,
        "seq_seed": 1234,
        "episode_max_length": 5000,
    }
    with Session.open(deeprm.address, "deeprm", 1, options) as session:
        layout = CompactObservation.from_options(session.options)
    env = RemoteVectorEnv(deeprm.address, "deeprm", num_envs=count, options=options)
    for policy, row in rows.items():
        state, _ = env.reset(options={"sequence_index": Each(range(count))})
        going, returns = np.ones(count, bool), np.zeros(count)
        totals = {name: np.zeros(count) for name in ("slowdown", "jobs_unscheduled")}
        while going.any():
            actions = choose(policy, layout.read(state))
            state, rewards, terminated, truncated, infos = env.step(actions)
            returns[going] += rewards[going]
            ended = going & (terminated | truncated)
            for name, values in totals.items():
                if ended.any():
                    values[ended] = infos[name][ended]
            going &= ~ended
        found = {
            "mean_episode_slowdown": totals["slowdown"].mean(),
            "unscheduled_per_ep": totals["jobs_unscheduled"].mean(),
            "total_reward_gamma1": returns.mean(),
        }
        for name, value in found.items():
            assert value == pytest.approx(float(row[name]), abs=6e-4), (policy, name)
    env.close()


def cluster(lengths, sizes, free) -> Cluster:
    """One state with 20 time steps, all of them with the same units free."""
    return Cluster(
        jobs_left=np.zeros((1, 20)),
        free=np.repeat(np.array(free, float)[None, :, None], 20, axis=2),
        lengths=np.array([lengths], float),
        sizes=np.array([sizes], float),
        backlog=np.zeros(1),
    )


def test_combined_is_packer_at_one_and_sjf_at_zero():
    state = cluster([12, 2, 0], [[9, 2], [2, 5], [0, 0]], [10, 10])
    assert heuristics.shortest_job_first(state) == heuristics.combined(state, 0) == 1
    assert heuristics.packer(state) == heuristics.combined(state, 1) == 0


def test_hold_long_jobs_starts_short_ones_and_keeps_long_ones_until_arrivals_end():
    waiting = cluster([12, 2], [[5, 2], [5, 2]], [10, 10])
    only_long = cluster([12, 0], [[5, 2], [0, 0]], [10, 10])
    all_long = cluster([12, 11], [[5, 2], [5, 2]], [10, 10])

    def act(state: Cluster, time: int) -> int:
        return int(heuristics.hold_long_jobs(state, [time], until=50, longest_short=7)[0])

    assert act(waiting, 10) == 1
    assert act(only_long, 10) == 2
    assert act(only_long, 49) == 2
    assert act(only_long, 50) == 0
    assert act(all_long, 10) == 1


def test_random_reaches_every_action_and_random_valid_only_the_allowed():
    rng = np.random.default_rng(5)
    assert set(heuristics.random_action(rng, 1000, 4)) == {0, 1, 2, 3, 4}
    allowed = np.array([[True, False, False, True, True], [False, False, True, False, False]])
    actions = heuristics.random_valid(rng, np.repeat(allowed, 500, axis=0))
    assert set(actions[:500]) == {0, 3, 4}
    assert set(actions[500:]) == {2}


def test_observations_of_another_length_are_refused(trace):
    with pytest.raises(ValueError, match="have shape"):
        trace.layout.read(trace.before()[:, :-1])
