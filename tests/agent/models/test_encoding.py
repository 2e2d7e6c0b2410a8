"""From simulators' spaces to those of networks."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from agent.models.encoding import Encoding, UnsupportedSpace

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
CHOICE = spaces.Discrete(4)


def test_float_vectors_and_images_stay_as_they_are():
    for space in (VECTOR, spaces.Box(0, 255, (8, 8, 3), np.float32)):
        encoding = Encoding(space, CHOICE)
        batch = np.zeros((2, *space.shape), space.dtype)
        assert encoding.encode(batch) is batch
        assert not encoding.encodes_observations
        assert encoding.observation_space == space


@pytest.mark.parametrize("high", [255, 100])
def test_images_of_bytes_are_scaled(high: int):
    space = spaces.Box(0, high, (2, 2, 3), np.uint8)
    encoding = Encoding(space, CHOICE)
    batch = np.zeros((2, *space.shape), np.uint8)
    batch[1] = high
    encoded = encoding.encode(batch)
    assert encoded.dtype == np.float32 and encoded.shape == batch.shape
    np.testing.assert_array_equal(encoded[0], np.full(space.shape, -1, np.float32))
    np.testing.assert_array_equal(encoded[1], np.full(space.shape, 1, np.float32))
    assert encoded[1] in encoding.observation_space
    mixed = np.arange(12, dtype=np.uint8).reshape(1, *space.shape)
    np.testing.assert_allclose(encoding.encode(mixed), mixed * (2 / high) - 1, atol=1e-6)


def test_everything_else_becomes_one_vector_in_the_spaces_order():
    space = spaces.Dict(
        {
            "value": spaces.Box(-100, 200, (), np.int64),
            "gear": spaces.Discrete(3, start=-1),
            "switches": spaces.MultiBinary(2),
            "pair": spaces.Tuple([spaces.MultiDiscrete([2, 2]), spaces.Box(-np.inf, np.inf, (1,))]),
        }
    )
    encoding = Encoding(space, CHOICE)
    batch = {
        "value": np.array([50, -100]),
        "gear": np.array([-1, 1]),
        "switches": np.array([[0, 1], [1, 1]], np.int8),
        "pair": (np.array([[0, 1], [1, 0]]), np.array([[7.0], [8.0]], np.float32)),
    }
    expected = [
        # gear comes first: Gymnasium sorts a plain dict's keys.
        [1, 0, 0, 1, 0, 0, 1, 7, 0, 1, 0],
        [0, 0, 1, 0, 1, 1, 0, 8, 1, 1, -1],
    ]
    encoded = encoding.encode(batch)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, expected)
    assert encoded[0] in encoding.observation_space


def test_the_mask_stays_beside_the_encoded_observation():
    mask_space = spaces.Box(0, 1, (4,), np.float32)
    space = spaces.Dict(observations=spaces.Discrete(2), action_mask=mask_space)
    encoding = Encoding(space, CHOICE)
    mask = np.ones((1, 4), np.float32)
    encoded = encoding.encode({"observations": np.array([1]), "action_mask": mask})
    np.testing.assert_array_equal(encoded["observations"], [[0, 1]])
    assert encoded["action_mask"] is mask
    assert encoding.observation_space["action_mask"] == mask_space


def test_actions_are_counted_from_zero_for_the_network_only():
    space = spaces.Dict(addend=spaces.Discrete(21, start=-10), go=spaces.Box(-2, 2, (1,)))
    encoding = Encoding(VECTOR, space)
    assert encoding.action_space["addend"] == spaces.Discrete(21)
    batched = batch_space(encoding.action_space, 3).sample()
    decoded = encoding.decode(batched)
    np.testing.assert_array_equal(decoded["addend"], batched["addend"] - 10)
    np.testing.assert_array_equal(decoded["go"], batched["go"])
    assert decoded in batch_space(space, 3)


def test_actions_from_zero_are_passed_on():
    encoding = Encoding(VECTOR, CHOICE)
    actions = np.array([0, 3])
    assert encoding.decode(actions) is actions


def test_what_no_network_takes_is_an_error_that_names_it():
    with pytest.raises(UnsupportedSpace, match="cannot observe Text spaces"):
        Encoding(spaces.Dict(name=spaces.Text(5)), CHOICE)
    with pytest.raises(UnsupportedSpace, match="cannot act in Sequence spaces"):
        Encoding(VECTOR, spaces.Sequence(CHOICE))
