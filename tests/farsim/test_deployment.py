"""Notes of deployments."""

from __future__ import annotations

import pytest

from farsim import deployment
from farsim.deployment import Deployment, InvalidDeploymentName, UnknownDeployment


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("FARSIM_STATE", str(tmp_path))


def test_what_is_written_is_read():
    noted = Deployment("a-1", "docker", ("adder",), ("h:1", "h:2"), {"tls_ca": "/certs/ca.pem"})
    deployment.write(noted)
    assert deployment.read("a-1") == noted
    assert deployment.names() == ["a-1"]
    assert deployment.remove("a-1")
    assert not deployment.remove("a-1")
    assert deployment.names() == []


def test_an_unknown_one_is_an_error_that_names_the_others():
    deployment.write(Deployment("here", "docker", ("adder",), ("h:1",)))
    with pytest.raises(UnknownDeployment, match="there: here"):
        deployment.read("gone")


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "docker"}', '{"addresses": []}'])
def test_a_note_that_is_none_is_told(content, tmp_path):
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "odd.json").write_text(content)
    with pytest.raises(UnknownDeployment, match=r"odd\.json"):
        deployment.read("odd")


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a/b", "..", "a" * 41])
def test_names_that_hosts_can_not_have_are_refused(name):
    with pytest.raises(InvalidDeploymentName):
        deployment.read(name)
