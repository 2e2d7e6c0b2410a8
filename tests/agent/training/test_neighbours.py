"""``farsim train`` on servers of dm_env_rpc and OpenEnv."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.training.records import read_progress
from tests.agent.training.command import Workplace, workplace
from tests.neighbours import dm_catch, openenv_thermostat
from tests.servers import serving

pytestmark = [pytest.mark.long, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("neighbours")) as place:
        yield place


@pytest.mark.parametrize(
    "scheme, neighbour",
    [("dmenv", dm_catch), ("openenv+http", openenv_thermostat)],
    ids=["dm_env_rpc", "OpenEnv"],
)
def test_a_few_iterations(place, scheme, neighbour):
    with neighbour() as address, serving(f"{scheme}://{address}") as server:
        out = place.folder / scheme
        place.here(
            *("train", f"{scheme}://{address}", "--sims", server.address),
            *("--config", place.quick, "--stop-steps", 1200, "--out", out, "--env-runners", 1),
        )
    rows = read_progress(out / "progress.csv")
    assert [row["iteration"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["return_mean"]) < 1.01 for row in rows)
