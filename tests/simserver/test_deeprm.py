"""What DeepRM promises beyond the recordings, whatever its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from simserver.simulator import Batch
from tests.simserver.deeprm_model import Model
from tests.simserver.deeprm_play import (
    TIGHT,
    compact_of,
    given_jobs,
    info,
    mask_of,
    over,
    play,
    simulator,
    valid_action,
)


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, Any]:
    """Options of any shape, with penalties and quirks."""
    horizon = draw(st.integers(2, 12))
    penalty = st.sampled_from([-1.0, -0.3, 0.0, -2.5])
    return {
        "simu_len": draw(st.integers(1, 25)),
        "num_res": draw(st.integers(1, 4)),
        "num_nw": draw(st.integers(1, 6)),
        "time_horizon": horizon,
        "max_job_len": draw(st.integers(1, horizon + 2)),
        "res_slot": draw(st.integers(1, 8)),
        "max_job_size": draw(st.integers(1, 9)),
        "backlog_size": draw(st.integers(1, 7)),
        "max_track_since_new": draw(st.integers(1, 5)),
        "job_num_cap": draw(st.sampled_from([2, 5, 40])),
        "episode_max_length": draw(st.integers(1, 60)),
        "end": draw(st.sampled_from(["no_new_job", "all_done"])),
        "delay_penalty": draw(penalty),
        "hold_penalty": draw(penalty),
        "dismiss_penalty": draw(penalty),
        "running_removal": draw(st.sampled_from(["exact", "reference"])),
        "impossible_jobs": "masked",
        "observation": draw(st.sampled_from(["compact", "both"])),
        "masks_in_info": draw(st.integers(0, 1)),
        "action_mask": draw(st.sampled_from(["fits_now", "fits_horizon", "occupied", "none"])),
    }


#: Found two jobs of one colour, the longer one first.
FEW_COLORS = {
    **TIGHT,
    "num_res": 2,
    "max_track_since_new": 1,
    "job_num_cap": 5,
    "episode_max_length": 50,
    "end": "no_new_job",
    "delay_penalty": -1.0,
    "hold_penalty": -1.0,
    "dismiss_penalty": -1.0,
    "running_removal": "exact",
    "impossible_jobs": "masked",
    "observation": "both",
    "masks_in_info": 0,
    "action_mask": "fits_now",
}


@settings(max_examples=200, deadline=None)
@given(options=clusters(), seed=st.integers(0, 2**32 - 1), num_envs=st.integers(1, 4))
@example(options={**FEW_COLORS, "simu_len": 60, "res_slot": 9}, seed=1, num_envs=4)
def test_every_environment_follows_the_rules(
    options: dict[str, Any], seed: int, num_envs: int
) -> None:
    """Any parameters, any actions, any subsets: as the plain model, bit for bit."""
    random = np.random.default_rng(seed)
    sim = simulator(num_envs, **options)
    shape = (num_envs, options["simu_len"])
    lengths = random.integers(0, options["max_job_len"] + 1, shape)
    sizes = random.integers(0, options["max_job_size"] + 1, (*shape, options["num_res"]))
    cap = options["job_num_cap"]
    colors = random.permuted(np.tile(np.arange(1 / cap, 1, 1 / cap), (num_envs, 1)), axis=1)
    batch = sim.reset(
        np.arange(num_envs),
        None,
        {
            "job_lengths": tuple(lengths),
            "job_sizes": tuple(sizes.reshape(num_envs, -1)),
            "job_colors": tuple(colors),
        },
    )
    models = [Model(options, *args) for args in zip(lengths, sizes, colors.tolist(), strict=True)]
    envs = going = np.arange(num_envs)
    while True:
        for row, env in enumerate(envs):
            compare(models[env], batch, row, options)
        if not going.size:
            break
        envs = going[random.random(going.size) < 0.8]
        if not envs.size:
            continue
        actions = random.integers(0, options["num_nw"] + 1, envs.size)
        before = [models[env].time for env in envs]
        batch = sim.step(envs, [actions])
        group = batch.groups[0]
        for row, env in enumerate(envs):
            model = models[env]
            expected = model.step(int(actions[row]))
            assert (group.reward[row], group.terminated[row], group.truncated[row]) == expected
            assert info(batch, "time_advanced")[row] == (model.time > before[row])
        for row, env in enumerate(envs[over(batch)]):
            compare_end(models[env], batch, row)
        going = np.setdiff1d(going, envs[over(batch)])


def compare(model: Model, batch: Batch, row: int, options: dict[str, Any]) -> None:
    assert_array_equal(compact_of(batch)[row], model.compact())
    if options["observation"] == "both":
        assert_array_equal(batch.groups[0].observation["image"][row], model.image())
    assert info(batch, "time")[row] == model.time
    assert info(batch, "backlog")[row] == len(model.backlog)
    assert info(batch, "running")[row] == len(model.running)
    earliest = [None if job is None else model.earliest(job) for job in model.slots]
    masks = {
        "fits_now": [offset == 0 for offset in earliest],
        "fits_horizon": [offset is not None for offset in earliest],
        "occupied": [job is not None for job in model.slots],
    }
    if options["action_mask"] != "none":
        assert_array_equal(mask_of(batch)[row], [*masks[options["action_mask"]], True])
    else:
        assert batch.groups[0].action_masks == ()
    for name in ("fits_now", "fits_horizon") if options["masks_in_info"] else ():
        assert_array_equal(info(batch, name)[row], masks[name])


def compare_end(model: Model, batch: Batch, row: int) -> None:
    jobs = info(batch, "jobs")[row]
    assert jobs[jobs[:, 0] >= 0].tolist() == model.records()
    placed = [job for job in model.jobs if job.start >= 0]
    assert info(batch, "jobs_allocated")[row] == len(placed)
    assert info(batch, "jobs_unscheduled")[row] == len(model.jobs) - len(placed)
    assert info(batch, "jobs_dropped")[row] == model.dropped
    slowdowns = [(job.finish - job.enter) / job.length for job in placed] or [0.0]
    assert_allclose(info(batch, "slowdown_sum")[row], sum(slowdowns))
    assert_allclose(info(batch, "slowdown")[row], np.mean(slowdowns))
    assert_allclose(info(batch, "slowdown_floored")[row], np.mean(np.floor(slowdowns)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    low=st.floats(0, 1),
    mask=st.sampled_from(["fits_now", "fits_horizon"]),
)
def test_nothing_is_lost_and_no_resource_is_over_its_capacity(
    seed: int, low: float, mask: str
) -> None:
    sim = simulator(1, **TIGHT, action_mask=mask)
    env, random = np.arange(1), np.random.default_rng(seed)
    first = sim.reset(env, [seed], {"new_job_rate": np.array([[low, 1.0]])})
    slots = slice((1 + 2) * TIGHT["time_horizon"], -1)
    placed = 0
    for batch in play(sim, first, 0, random):
        placed += not info(batch, "time_advanced")[0]
        in_slots = compact_of(batch)[0, slots].reshape(-1, 3)[:, 0] > 0
        waiting = in_slots.sum() + info(batch, "backlog")[0]
    jobs = info(batch, "jobs")[0]
    jobs = jobs[jobs[:, 0] >= 0]
    assert info(batch, "jobs_allocated")[0] == placed
    assert info(batch, "jobs_unscheduled")[0] == waiting == len(jobs) - placed
    arrivals = len(jobs) + info(batch, "jobs_dropped")[0]
    assert arrivals <= TIGHT["simu_len"] - 1
    if low == 1.0:
        assert arrivals == TIGHT["simu_len"] - 1
    used = np.zeros((jobs[:, 3].max(initial=0) + 1, 2))
    for _, enter, start, finish, length, *sizes in jobs[jobs[:, 2] >= 0].tolist():
        assert enter <= start
        assert finish == start + length
        used[start:finish] += sizes
    assert used.max() <= TIGHT["res_slot"]


@pytest.mark.parametrize("action_mask", ["fits_now", "fits_horizon", "occupied"])
def test_return_is_minus_the_sum_of_slowdowns(action_mask: str) -> None:
    sim = simulator(8, action_mask=action_mask)
    random = np.random.default_rng(3)
    first = sim.reset(np.arange(8), list(range(8)), {})
    for env in range(8):
        total = 0.0
        for batch in play(sim, first, env, random, row=env):
            total += batch.groups[0].reward[0]
        assert batch.groups[0].terminated[0]
        assert_allclose(total, -info(batch, "slowdown_sum")[0])
        assert info(batch, "jobs_unscheduled")[0] == 0


def test_time_limit_truncates_and_never_terminates() -> None:
    sim = simulator(1, **TIGHT, episode_max_length=20)
    sim.reset(np.arange(1), [0], {})
    for time in range(1, 22):
        batch = sim.step(np.arange(1), [np.array([TIGHT["num_nw"]])])
        assert not batch.groups[0].terminated[0]
        assert batch.groups[0].truncated[0] == (time == 21)
    assert sim.max_episode_steps == 21 + TIGHT["simu_len"] - 1
    assert info(batch, "jobs_unscheduled")[0] > 0


def test_action_limit_truncates_after_so_many_actions_of_any_kind() -> None:
    sim = simulator(2, action_limit=25)
    random, envs = np.random.default_rng(0), np.arange(2)
    for _ in range(2):
        batch = sim.reset(envs, None, {})
        for number in range(1, 26):
            actions = np.array([valid_action(mask, random) for mask in mask_of(batch)])
            batch = sim.step(envs, [actions])
            assert_array_equal(batch.groups[0].truncated, [number == 25] * 2)
        assert_array_equal(batch.groups[0].infos["jobs"].rows, envs)
    assert sim.max_episode_steps == 25


@pytest.mark.parametrize("observation", ["compact", "image", "both"])
@pytest.mark.parametrize("normalize", [0, 1])
def test_observations_lie_in_the_declared_space(observation: str, normalize: int) -> None:
    options = {**TIGHT, "observation": observation, "normalize_compact": normalize}
    sim = simulator(3, **options, running_removal="reference")
    space = sim.groups[0].observation_space
    random, envs = np.random.default_rng(1), np.arange(3)
    batch = sim.reset(envs, [1, 2, 3], {})
    for _ in range(TIGHT["simu_len"]):
        seen = batch.groups[0].observation
        for env in envs:
            row = {k: v[env] for k, v in seen.items()} if observation == "both" else seen[env]
            assert row in space
        batch = sim.step(envs, [random.integers(0, TIGHT["num_nw"] + 1, 3)])


def test_normalized_compact_is_the_raw_one_over_its_scale() -> None:
    raw, normalized = simulator(1, **TIGHT), simulator(1, **TIGHT, normalize_compact=1)
    env, random = np.arange(1), np.random.default_rng(1)
    batches = [sim.reset(env, [5], {}) for sim in (raw, normalized)]
    size, length = TIGHT["max_job_size"], TIGHT["max_job_len"]
    plan = 3 * TIGHT["time_horizon"]
    for _ in range(25):
        one, other = (compact_of(batch)[0] for batch in batches)
        assert_allclose(other[:plan], one[:plan] / TIGHT["res_slot"], rtol=1e-6)
        slots, expected = other[plan:-1].reshape(-1, 3), one[plan:-1].reshape(-1, 3)
        assert_allclose(slots, expected / [length, size, size], rtol=1e-6)
        assert_allclose(other[-1], one[-1] / TIGHT["backlog_size"], rtol=1e-6)
        action = [np.array([random.integers(0, 4)])]
        batches = [sim.step(env, action) for sim in (raw, normalized)]


def test_a_returned_observation_can_not_be_written_to() -> None:
    sim = simulator(2)
    batch = sim.reset(np.arange(2), None, {})
    with pytest.raises(ValueError, match="read-only"):
        compact_of(batch)[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        mask_of(batch)[0] = True


def test_mode_stands_for_the_quirks_and_each_can_be_set_alone() -> None:
    def chosen(**options: Any) -> tuple[str, ...]:
        made = simulator(1, **options)._settings
        return made.running_removal, made.colors, made.impossible_jobs

    assert chosen() == ("exact", "seeded", "reject")
    assert chosen(mode="reference") == ("reference", "legacy", "reference")
    assert chosen(mode="reference", colors="binary") == ("reference", "binary", "reference")
    assert chosen(running_removal="reference") == ("reference", "seeded", "reject")


def test_jobs_as_long_as_the_horizon_look_fitting_only_in_the_reference() -> None:
    jobs = given_jobs([(0, (0, 0)), (4, (1, 1))])
    for rule, fits in (("masked", False), ("reference", True)):
        sim = simulator(1, **{**TIGHT, "time_horizon": 4}, impossible_jobs=rule)
        sim.reset(np.arange(1), None, jobs)
        batch = sim.step(np.arange(1), [np.array([3])])
        assert mask_of(batch)[0].tolist() == [fits, False, False, True]
        batch = sim.step(np.arange(1), [np.array([0])])
        assert info(batch, "time_advanced")[0]


def test_binary_colors_show_only_what_is_occupied() -> None:
    options = {"observation": "image", "action_mask": "fits_horizon"}
    sims = [simulator(1, **options, colors=colors) for colors in ("binary", "seeded")]
    random, env = np.random.default_rng(0), np.arange(1)
    batches = [sim.reset(env, [4], {}) for sim in sims]
    colors = set()
    for _ in range(60):
        binary, seeded = (batch.groups[0].observation[0, :, :-1] for batch in batches)
        assert_array_equal(binary, seeded > 0)
        colors.update(np.unique(seeded).tolist())
        action = [np.array([valid_action(mask_of(batches[0])[0], random)])]
        batches = [sim.step(env, action) for sim in sims]
    assert len(colors) > 5


@pytest.mark.parametrize("options", [{}, TIGHT, {"res_slot": 50, "max_job_size": 40, "num_res": 3}])
def test_render_shows_the_jobs_and_leaves_the_state_alone(options: dict[str, Any]) -> None:
    sim = simulator(2, **options)
    random, envs = np.random.default_rng(0), np.arange(2)
    batch = sim.reset(envs, [1, 2], {})
    empty = sim.render(envs)
    for _ in range(25):
        actions = np.array([valid_action(mask, random) for mask in mask_of(batch)])
        batch = sim.step(envs, [actions])
    saved = sim.save_state(envs)
    frames = sim.render(envs)
    assert sim.save_state(envs) == saved
    assert_array_equal(sim.render(envs[1:])[0], frames[1])
    for before, frame in zip(empty, frames, strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == before.shape
        assert frame.shape[2] == 3
        hues = frame.max(axis=2).astype(int) - frame.min(axis=2) > 60
        assert hues.mean() > 0.01
        assert not (before.max(axis=2).astype(int) - before.min(axis=2) > 60).any()
