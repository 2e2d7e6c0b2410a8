"""What ``farsim deploy docker`` says before, or without, an engine."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml

from deploy.docker.cli import name_after
from deploy.docker.context import NoBuildContext, build_context, source_folder
from deploy.docker.plan import Plan
from deploy.docker.tls import TlsFiles, UnfitCertificates
from farsim.certs import make_certificates
from farsim.errors import InvalidArgument
from farsim.serving import InsecureAddress
from tests.deploy.conftest import ROOT, farsim


def test_an_absent_engine_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    output = farsim("deploy", "docker", "list", code=1)
    assert "no Docker Engine answers" in output and "DOCKER_HOST" in output
    assert "Traceback" not in output


def test_ports_follow_each_other_over_replicas_and_workers():
    plan = Plan("deep", ("deeprm",), replicas=2, workers=3, port=6000)
    assert plan.addresses[1] == ("127.0.0.1:6003", "127.0.0.1:6004", "127.0.0.1:6005")
    assert plan.sims == "127.0.0.1:6000-6005"
    assert plan.container(1)["ports"] == {
        "50051/tcp": ("127.0.0.1", 6003),
        "50052/tcp": ("127.0.0.1", 6004),
        "50053/tcp": ("127.0.0.1", 6005),
    }


def test_ports_open_to_others_take_tls(tmp_path):
    with pytest.raises(InsecureAddress, match="--tls"):
        Plan("open", ("adder",), publish="0.0.0.0")
    assert Plan("open", ("adder",), publish="0.0.0.0", host="sim-a", insecure=True).sims == (
        "sim-a:50051"
    )
    make_certificates(tmp_path, ["10.0.0.5", "localhost"])
    files = TlsFiles.of(tmp_path, "10.0.0.5")
    plan = Plan("open", ("adder",), publish="10.0.0.5", tls=files)
    assert "--insecure" not in plan.command()
    assert set(plan.connection()) == {"tls_ca", "tls_cert", "tls_key"}
    with pytest.raises(UnfitCertificates, match="must name sim-b"):
        TlsFiles.of(tmp_path, "sim-b")
    (tmp_path / "client.pem").unlink()
    with pytest.raises(UnfitCertificates, match=r"lacks client\.pem"):
        TlsFiles.of(tmp_path, "10.0.0.5")


def test_counts_are_positive():
    with pytest.raises(InvalidArgument):
        Plan("none", ("adder",), replicas=0)


@pytest.mark.parametrize(
    ("simulator", "name"),
    [
        ("deeprm", "deeprm"),
        ("particle/simple_tag", "simple-tag"),
        ("gymnasium/ALE/Pong-v5", "pong-v5"),
        ("my_package.my_module:MyEnv", "myenv"),
    ],
)
def test_deployments_are_named_after_their_simulator(simulator, name):
    assert name_after(simulator) == name


def test_the_build_context_has_the_sources_and_the_wheels_alone(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with (
        pytest.raises(NoBuildContext, match="no wheels"),
        build_context(ROOT, "Dockerfile.sim", wheels),
    ):
        pass
    (wheels / "own-1.0-py3-none-any.whl").write_bytes(b"")
    with (
        build_context(ROOT, "Dockerfile.sim", wheels) as file,
        tarfile.open(fileobj=file) as tar,
    ):
        names = tar.getnames()
    assert {"Dockerfile.sim", "constraints.txt", "farsim/cli.py", "simserver/py.typed"} <= set(
        names
    )
    assert "wheelhouse/own-1.0-py3-none-any.whl" in names
    tops = {Path(name).parts[0] for name in names}
    assert not tops & {".git", ".venv", "tests", "docs", "runs"}
    assert not [name for name in names if "__pycache__" in name]
    with pytest.raises(NoBuildContext, match="--context"):
        source_folder(tmp_path, "Dockerfile.sim")


def test_compose_runs_what_the_images_offer():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    built = {name: service["build"]["dockerfile"] for name, service in services.items()}
    assert sorted(built.values()) == ["Dockerfile.sim", "Dockerfile.sim", "Dockerfile.train"]
    for name, service in services.items():
        assert (ROOT / built[name]).is_file()
        assert service["cap_drop"] == ["ALL"] and service["read_only"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    (head,) = (name for name in built if built[name] == "Dockerfile.train")
    assert set(services[head]["depends_on"]) == set(services) - {head}
    sims = services[head]["command"][services[head]["command"].index("--sims") + 1]
    assert {address.partition(":")[0] for address in sims.split(",")} == set(services) - {head}
