"""Recordings of the original DeepRM, replayed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from simserver.sims.deeprm import DeepRM
from simserver.simulator import Batch, BoolArray, IntArray
from tests.simserver.deeprm_traces import Trace, folder, sequences, trace_paths

TRACES = trace_paths()
SEQUENCES = sequences()
MASKS = {"fits_now": "fits_now_mask", "fits_horizon": "valid_mask", "occupied": "slot_occupied"}


@pytest.fixture(params=TRACES, ids=[path.stem for path in TRACES])
def trace(request: pytest.FixtureRequest) -> Trace:
    path: Path = request.param
    return Trace.load(path)


def simulator(num_envs: int, **options: Any) -> DeepRM:
    values = {parameter.name: parameter.default for parameter in DeepRM.parameters}
    assert options.keys() <= values.keys()
    return DeepRM(num_envs, **{**values, **options})


class Replay:
    """Steps episodes of a trace, each in an environment of its own, and compares everything.

    Environment and episode may be any pairs: ``episodes`` is the episode of each environment.
    """

    def __init__(self, trace: Trace, num_envs: int, action_mask: str) -> None:
        self.trace = trace
        self.action_mask = action_mask
        self.sim = simulator(num_envs, **trace.options(), action_mask=action_mask)
        self.episodes = np.zeros(num_envs, np.int64)
        self.steps_done = np.zeros(num_envs, np.int64)

    def reset(self, envs: IntArray, episodes: IntArray) -> None:
        rows = [self.trace.episode_options(episode) for episode in episodes.tolist()]
        options = {name: tuple(row[name] for row in rows) for name in rows[0]}
        self.episodes[envs], self.steps_done[envs] = episodes, 0
        batch = self.sim.reset(envs, None, options)
        assert_array_equal(batch.started, envs)
        assert batch.groups[0].reward is None
        self._check_view(batch, envs)

    def step(self, envs: IntArray) -> BoolArray:
        """Takes the recorded action in each environment; True where its episode ended."""
        trace, episodes = self.trace, self.episodes[envs]
        rows = trace.first_steps[episodes] + self.steps_done[envs]
        self.steps_done[envs] += 1
        batch = self.sim.step(envs, [trace.action[rows].astype(np.int64)])
        group = batch.groups[0]
        recorded = {
            "time": trace.time_after,
            "backlog": trace.backlog_after,
            "running": trace.running_after,
            "time_advanced": trace.time_advanced,
        }
        for name, values in recorded.items():
            assert_array_equal(group.infos[name].values, values[rows], name)
        assert_array_equal(group.reward, trace.reward[rows], "reward")
        done = trace.done[rows]
        forced = done & self._forced(rows, episodes)
        assert_array_equal(group.terminated, done & ~forced, "terminated")
        assert_array_equal(group.truncated, forced, "truncated")
        self._check_view(batch, envs)
        ended = done.nonzero()[0]
        for name in ("jobs", "slowdown", "jobs_dropped") if done.any() else ():
            assert_array_equal(group.infos[name].rows, ended)
        for row, episode in enumerate(episodes[ended].tolist()):
            infos = {
                name: info.values[row]
                for name, info in group.infos.items()
                if info.rows is not None
            }
            self._check_episode(episode, infos)
        return done

    def _forced(self, rows: IntArray, episodes: IntArray) -> BoolArray:
        """Whether something was left: only the time limit can end such an episode (SPEC 6)."""
        params = self.trace.params
        if params["end"] == "no_new_job":
            return np.zeros(len(rows), np.bool_)
        after = self.trace.obs_compact[rows + episodes + 1]
        plan = (1 + params["num_res"]) * params["time_horizon"]
        left = after[:, plan:].any(axis=1) | (self.trace.running_after[rows] > 0)
        return left | (self.trace.time_after[rows] < params["simu_len"])

    def _check_view(self, batch: Batch, envs: IntArray) -> None:
        trace, episodes = self.trace, self.episodes[envs]
        rows = trace.first_observations[episodes] + self.steps_done[envs]
        group = batch.groups[0]
        observation = group.observation
        if trace.has_image:
            assert_array_equal(observation["image"], trace.obs_image[rows], "image")
            assert observation["image"].dtype == np.float32
            observation = observation["compact"]
        assert observation.dtype == np.float32
        assert_array_equal(observation, trace.obs_compact[rows], "compact")

        going_on = self.steps_done[envs] < trace.episode_num_steps[episodes]
        rows = (trace.first_steps[episodes] + self.steps_done[envs])[going_on]
        (mask,) = group.action_masks
        assert mask[:, -1].all()
        recorded = trace.arrays[MASKS[self.action_mask]][rows]
        assert_array_equal(mask[going_on, :-1], recorded, "action mask")
        for name in ("fits_now", "fits_horizon"):
            values = np.asarray(group.infos[name].values)
            assert_array_equal(values[going_on], trace.arrays[MASKS[name]][rows], name)

    def _check_episode(self, episode: int, infos: dict[str, Any]) -> None:
        trace = self.trace
        jobs = infos["jobs"]
        there = jobs[:, 0] >= 0
        assert_array_equal(jobs[there], trace.jobs_of(episode))
        assert (jobs[~there] == -1).all()
        _, _, mean, floored, allocated, unscheduled, dropped, total = trace.metrics[episode]
        assert infos["jobs_allocated"] == allocated
        assert infos["jobs_unscheduled"] == unscheduled
        assert infos["jobs_dropped"] == dropped
        # The order in which the recorder summed is not part of the format.
        assert_allclose(infos["slowdown_sum"], total, rtol=1e-12)
        assert_allclose(infos["slowdown"], mean if allocated else 0.0, rtol=1e-12)
        assert_allclose(infos["slowdown_floored"], floored if allocated else 0.0, rtol=1e-12)


def test_reference_deeprm_recordings_are_there() -> None:
    assert TRACES, f"no recordings in {folder()}; FARSIM_REFERENCE names the folder above it"


def test_reference_deeprm_episodes_one_after_another(trace: Trace) -> None:
    replay = Replay(trace, 1, "fits_now")
    env = np.arange(1)
    for episode in range(trace.num_episodes):
        replay.reset(env, np.array([episode]))
        steps = [bool(replay.step(env)[0]) for _ in range(trace.episode_num_steps[episode])]
        assert not any(steps[:-1])


@pytest.mark.parametrize("action_mask", MASKS)
def test_reference_deeprm_episodes_side_by_side(trace: Trace, action_mask: str) -> None:
    count = trace.num_episodes
    replay = Replay(trace, count, action_mask)
    envs = np.arange(count)
    replay.reset(envs, envs[::-1])
    going_on = replay.steps_done < trace.episode_num_steps[replay.episodes]
    while going_on.any():
        replay.step(envs[going_on])
        going_on = replay.steps_done < trace.episode_num_steps[replay.episodes]


def test_reference_deeprm_episodes_in_subsets(trace: Trace) -> None:
    """Environments are reset and stepped in any combination; none disturbs another."""
    count = trace.num_episodes
    random = np.random.default_rng(7)
    replay = Replay(trace, 2 * count, "fits_now")
    envs = np.arange(2 * count)
    length = np.zeros(2 * count, np.int64)
    waiting = np.ones(2 * count, np.bool_)
    unplayed = list(random.permutation(np.repeat(np.arange(count), 3)))
    while unplayed or not waiting.all():
        some = random.random(2 * count) < random.random()
        start = (some & waiting).nonzero()[0][: len(unplayed)]
        if start.size:
            episodes = np.array([unplayed.pop() for _ in start])
            replay.reset(start, episodes)
            length[start] = trace.episode_num_steps[episodes]
            waiting[start] = False
        step = (some & ~waiting).nonzero()[0]
        if step.size:
            replay.step(step)
            waiting[step] = replay.steps_done[step] == length[step]
    assert replay.steps_done[envs].all()


def test_reference_deeprm_legacy_sequences_of_the_trace(trace: Trace) -> None:
    """``jobs=legacy`` draws what the recorded episodes were made of."""
    sim = simulator(1, **trace.options(), jobs="legacy")
    env = np.arange(1)
    for episode in range(trace.num_episodes):
        batch = sim.reset(env, None, {})
        assert batch.episode_options["sequence_index"][0] == trace.episode_seq_no[episode]
        for row in range(trace.steps(episode).start, trace.steps(episode).stop):
            batch = sim.step(env, [trace.action[row : row + 1].astype(np.int64)])
            assert_array_equal(batch.groups[0].reward, trace.reward[row : row + 1])
        jobs = batch.groups[0].infos["jobs"].values[0]
        assert_array_equal(jobs[jobs[:, 0] >= 0], trace.jobs_of(episode))


@pytest.mark.parametrize("entry", SEQUENCES, ids=[f"seed{meta['seed']}" for meta, _ in SEQUENCES])
def test_reference_deeprm_legacy_generator(entry: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Sequences and colour orders, as an episode without any action shows them."""
    meta, arrays = entry
    names = {parameter.name for parameter in DeepRM.parameters} - {"new_job_rate"}
    options = {name: value for name, value in meta.items() if name in names}
    rate = np.array([meta["new_job_rate"]] * 2)
    # Slots for all jobs, so that each shows when it arrives, and then in the records.
    options |= {"num_nw": meta["simu_len"], "new_job_rate": rate, "seq_seed": meta["seed"]}
    sim = simulator(
        2, **options, jobs="legacy", mode="reference", end="no_new_job", observation="image"
    )
    envs = np.arange(2)
    for number in range(meta["num_ex"]):
        sim.reset(envs, None, {})
        if number < len(arrays["colormaps"]):
            assert_array_equal(sim._cluster.state["palette"], [arrays["colormaps"][number]] * 2)
        for _ in range(meta["simu_len"]):
            batch = sim.step(envs, [np.full(2, options["num_nw"])])
        assert batch.groups[0].terminated.all()
        for jobs in batch.groups[0].infos["jobs"].values:
            jobs = jobs[jobs[:, 0] >= 0]
            expected = np.arange(meta["simu_len"])[arrays["len"][number] > 0]
            expected = expected[expected > 0]
            assert_array_equal(jobs[:, 1], expected)
            assert_array_equal(jobs[:, 4], arrays["len"][number][expected])
            assert_array_equal(jobs[:, 5:], arrays["size"][number][expected])
