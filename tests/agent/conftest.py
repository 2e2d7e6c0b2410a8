"""What holds for all tests of the head."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """RLlib starts a Ray of its own where there is none, and the next test then has that."""
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "these tests have left Ray running"
