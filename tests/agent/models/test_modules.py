"""The policy networks: masks, symmetry, sizes, and what RLlib asks of them."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from ray.rllib.core.rl_module.rl_module import RLModule

from agent.deeprm.observation import CompactObservation
from agent.models.masking import FORBIDDEN_LOGIT
from agent.models.selection import UnsuitableAlgorithm, check_algorithm, module_spec

PAPER = CompactObservation(
    num_res=2,
    num_nw=10,
    time_horizon=20,
    max_job_len=15,
    res_slot=10,
    max_job_size=10,
    backlog_size=60,
)
SMALL = CompactObservation(
    num_res=3,
    num_nw=4,
    time_horizon=12,
    max_job_len=10,
    res_slot=8,
    max_job_size=6,
    backlog_size=24,
)
LAYOUTS = pytest.mark.parametrize("layout", [PAPER, SMALL], ids=["paper", "small"])


def session_options(layout: CompactObservation) -> dict:
    return {**layout.to_options(), "observation": "compact", "simu_len": 50, "new_job_rate": [0.7]}


def masked_space(layout: CompactObservation) -> Dict:
    return Dict(
        observations=Box(0, 60, (layout.length,), np.float32),
        action_mask=Box(0, 1, (layout.num_nw + 1,), np.float32),
    )


def deeprm_module(layout: CompactObservation, **model_config) -> RLModule:
    space = masked_space(layout)
    spec = module_spec("PPO", session_options(layout), space, model_config)
    torch.manual_seed(3)
    spec.observation_space, spec.action_space = space, Discrete(layout.num_nw + 1)
    return spec.build()


def states(layout: CompactObservation, n: int, seed: int = 0) -> np.ndarray:
    """Observations with random jobs on a partly used cluster."""
    rng = np.random.default_rng(seed)
    horizon, resources, slots = layout.time_horizon, layout.num_res, layout.num_nw
    free = np.sort(rng.integers(0, layout.res_slot + 1, (n, resources, horizon)), axis=2)
    free = np.maximum(free, rng.integers(0, layout.res_slot + 1, (n, resources, 1)))
    lengths = rng.integers(0, layout.max_job_len + 1, (n, slots, 1))
    sizes = rng.integers(1, layout.max_job_size + 1, (n, slots, resources)) * (lengths > 0)
    parts = [
        rng.integers(0, 5, (n, horizon)),
        free.reshape(n, -1),
        np.concatenate([lengths, sizes], axis=2).reshape(n, -1),
        rng.integers(0, layout.backlog_size, (n, 1)),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def fits_mask(layout: CompactObservation, observations: np.ndarray) -> np.ndarray:
    fits = layout.read(observations).fits_now()
    return np.concatenate([fits, np.ones((len(fits), 1), bool)], axis=1).astype(np.float32)


def batch_of(observations: np.ndarray, mask: np.ndarray) -> dict:
    return {
        "obs": {
            "observations": torch.from_numpy(observations),
            "action_mask": torch.from_numpy(mask),
        }
    }


@LAYOUTS
def test_forbidden_actions_are_never_taken(layout):
    module = deeprm_module(layout)
    observations = states(layout, 64)
    mask = fits_mask(layout, observations)
    logits = module.forward_exploration(batch_of(observations, mask))["action_dist_inputs"]
    distribution = module.get_exploration_action_dist_cls().from_logits(logits)
    for _ in range(20):
        actions = distribution.sample().numpy()
        assert mask[np.arange(64), actions].all()
    for numbers in (logits, distribution.entropy(), distribution.kl(distribution)):
        assert torch.isfinite(numbers).all()


@LAYOUTS
def test_a_mask_that_allows_nothing_gives_no_nan(layout):
    module = deeprm_module(layout)
    mask = np.zeros((3, layout.num_nw + 1), np.float32)
    logits = module.forward_exploration(batch_of(states(layout, 3), mask))["action_dist_inputs"]
    distribution = module.get_exploration_action_dist_cls().from_logits(logits)
    assert torch.isfinite(distribution.entropy()).all()


@LAYOUTS
def test_exchanging_slots_exchanges_their_logits_and_changes_nothing_else(layout):
    module = deeprm_module(layout)
    observations = states(layout, 16)
    order = np.random.default_rng(1).permutation(layout.num_nw)
    plan = (1 + layout.num_res) * layout.time_horizon
    permuted = observations.copy()
    jobs = observations[:, plan:-1].reshape(16, layout.num_nw, -1)
    permuted[:, plan:-1] = jobs[:, order].reshape(16, -1)
    results = []
    for rows in (observations, permuted):
        batch = batch_of(rows, fits_mask(layout, rows))
        logits = module.forward_train(batch)["action_dist_inputs"]
        results.append((logits.detach().numpy(), module.compute_values(batch).detach().numpy()))
    (logits, values), (permuted_logits, permuted_values) = results
    expected = logits[:, [*order, layout.num_nw]]
    np.testing.assert_allclose(permuted_logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(permuted_values, values, rtol=1e-4, atol=1e-4)


@LAYOUTS
def test_the_network_sees_which_jobs_fit_now(layout):
    module = deeprm_module(layout)
    observations = states(layout, 64)
    # Nothing runs, so that a job can start exactly if it fits.
    observations[:, : layout.time_horizon] = 0
    startable = module.features(torch.from_numpy(observations)).startable.numpy()
    assert 0.1 < startable.mean() < 0.9
    np.testing.assert_array_equal(startable, layout.read(observations).fits_now())


@LAYOUTS
def test_normalized_observations_are_seen_the_same(layout):
    normalized = CompactObservation(**{**layout.__dict__, "normalize_compact": True})
    observations = states(layout, 8)
    mask = fits_mask(layout, observations)
    raw = deeprm_module(layout).forward_exploration(batch_of(observations, mask))
    scaled = deeprm_module(normalized).forward_exploration(
        batch_of(observations / normalized.scale(), mask)
    )
    np.testing.assert_allclose(
        raw["action_dist_inputs"], scaled["action_dist_inputs"], rtol=1e-3, atol=1e-4
    )


def test_inference_starts_a_job_on_an_idle_cluster_whatever_the_network_prefers():
    module = deeprm_module(PAPER)
    with torch.no_grad():
        module.actor._void.bias[:] = 100.0
    observations = states(PAPER, 64)
    mask = fits_mask(PAPER, observations)
    can_start = mask[:, :-1].any(axis=1)
    assert can_start.any()
    assert not can_start.all()
    busy, idle = observations.copy(), observations.copy()
    busy[:, 0], idle[:, 0] = 1, 0

    def greedy(rows: np.ndarray) -> np.ndarray:
        logits = module.forward_inference(batch_of(rows, mask))["action_dist_inputs"]
        return logits.argmax(dim=1).numpy()

    assert (greedy(busy) == PAPER.num_nw).all()
    assert (greedy(idle)[can_start] < PAPER.num_nw).all()
    assert (greedy(idle)[~can_start] == PAPER.num_nw).all()


def test_without_a_mask_all_actions_are_open():
    spec = module_spec("PPO", session_options(PAPER), masked_space(PAPER), {})
    spec.observation_space = masked_space(PAPER)["observations"]
    spec.action_space = Discrete(11)
    logits = spec.build().forward_exploration({"obs": torch.from_numpy(states(PAPER, 4))})
    assert (logits["action_dist_inputs"] > FORBIDDEN_LOGIT).all()


def test_a_module_comes_back_from_its_checkpoint(tmp_path):
    module = deeprm_module(PAPER, width=16)
    module.save_to_path(tmp_path)
    again = RLModule.from_checkpoint(tmp_path)
    observations = states(PAPER, 4)
    batch = batch_of(observations, fits_mask(PAPER, observations))
    torch.testing.assert_close(
        module.forward_exploration(batch)["action_dist_inputs"],
        again.forward_exploration(batch)["action_dist_inputs"],
    )


def test_env_runners_get_no_critic():
    spec = module_spec("PPO", session_options(PAPER), masked_space(PAPER), {})
    spec.observation_space, spec.action_space = masked_space(PAPER), Discrete(11)
    spec.inference_only = True
    assert not hasattr(spec.build(), "critic")


def test_a_layout_that_does_not_fit_the_observation_is_refused():
    space = Box(0, 60, (90,), np.float32)
    assert module_spec("PPO", session_options(PAPER), space, {}) is None


@pytest.mark.parametrize("algo", ["PPO", "APPO", "IMPALA"])
@pytest.mark.parametrize("action_space", [Discrete(3), MultiDiscrete([2, 3])], ids=str)
def test_masked_spaces_of_other_simulators_get_rllibs_networks_with_a_mask(algo, action_space):
    width = 3 if isinstance(action_space, Discrete) else 5
    space = Dict(
        observations=Box(-1, 1, (4,), np.float32), action_mask=Box(0, 1, (width,), np.float32)
    )
    spec = module_spec(algo, {}, space, {"fcnet_hiddens": [8]})
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog

    spec.observation_space, spec.action_space, spec.catalog_class = space, action_space, PPOCatalog
    module = spec.build()
    mask = np.ones((2, width), np.float32)
    mask[:, 1] = 0
    batch = batch_of(np.ones((2, 4), np.float32), mask)
    for forward in (module.forward_exploration, module.forward_inference, module.forward_train):
        logits = forward(batch)["action_dist_inputs"]
        np.testing.assert_array_equal(logits.detach().numpy() == FORBIDDEN_LOGIT, mask == 0)
    assert module.compute_values(batch).shape == (2,)


def test_value_methods_get_rllibs_own_networks():
    assert module_spec("DQN", session_options(PAPER), masked_space(PAPER), {}) is None


def test_algorithms_that_cannot_act_there_are_refused():
    with pytest.raises(UnsuitableAlgorithm, match="DQN needs a single choice"):
        check_algorithm("DQN", Box(-1, 1, (2,)))
    with pytest.raises(UnsuitableAlgorithm, match="SAC needs numbers"):
        check_algorithm("SAC", Dict(a=Discrete(2)))
    check_algorithm("PPO", Dict(a=Discrete(2)))
    check_algorithm("SAC", Box(-1, 1, (2,)))
