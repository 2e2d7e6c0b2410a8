"""The examples of the documentation, run."""

import re
from pathlib import Path

import grpc
import numpy as np
import pytest

from farsim import tensors
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import ROOT, serving


def python_blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_batch_simulator_of_the_guide(tmp_path: Path):
    (code,) = (block for block in python_blocks("simulators.md") if "class Walk" in block)
    (tmp_path / "walk.py").write_text(code)
    with (
        serving("walk:Walk", "--option", "slip=0", folder=tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        assert stream.ask(opening(num_environments=3)).HasField("opened")
        assert stream.ask(reset(2, seeds=[1, 2, 3])).HasField("batch")
        for sequence in range(3, 13):
            reply = stream.ask(step(sequence, np.array([1, 0, 1])))
        group = reply.batch.groups[0]
        assert tensors.unpack(group.reward).tolist() == [1, 0, 1]
        assert tensors.unpack(group.terminated).all()
        reply = stream.ask(step(13, np.array([1, 1, 1])))
        assert list(reply.batch.started.index) == [0, 1, 2]


def test_the_tenth_scenario_of_the_particle_guide(tmp_path: Path):
    (code,) = python_blocks("particle.md")
    (tmp_path / "ball.py").write_text(code)
    with (
        serving("ball:Ball", "--option", "N=3", folder=tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        (group,) = stream.ask(opening(num_environments=2)).opened.groups
        assert list(group.agents) == ["agent_0", "agent_1", "agent_2"]
        assert stream.ask(reset(2, seeds=[1, 2])).HasField("batch")
        for sequence in range(3, 28):
            reply = stream.ask(step(sequence, np.array([0, 1, 2, 3, 4, 0])))
        (batch,) = reply.batch.groups
        reward = tensors.unpack(batch.reward)
        (distance,) = (info for info in batch.infos if info.name == "goal_distance")
        assert (reward == -tensors.unpack(distance.tensor)).all() and (reward < 0).all()
        assert tensors.unpack(batch.truncated).all()
        assert list(tensors.unpack(batch.observation.tensors[0]).shape) == [6, 12]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_options_of_deeprm_are_all_told():
    from simserver.sims.deeprm import DeepRM

    text = (ROOT / "docs" / "deeprm.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    declared = {parameter.name: parameter.description for parameter in DeepRM.parameters}
    assert [name for name, _ in told] == list(declared)
    for name, meaning in told:
        assert meaning.startswith(declared[name]), name
