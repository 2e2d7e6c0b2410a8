"""Servers that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.servers import Serving, serving

# The same examples in every run: whether a change may land must not hang on a draw, nor on how
# busy the machine is. Look further with `--hypothesis-profile=default` and `--hypothesis-seed`.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Serving]:
    """Offers ``adder``, ``gymnasium/CartPole-v1`` and the environments of ``tests.simulators``.

    Only for tests that leave it as it was.
    """
    with serving(
        "adder",
        "gymnasium/CartPole-v1",
        "tests.simulators.envs:Slow",
        "tests.simulators.envs:Masked",
    ) as server:
        yield server
