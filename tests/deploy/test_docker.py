"""Simulators in containers, trained on from this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from agent.training.records import read_progress
from farsim import deployment
from farsim.certs import make_certificates, make_token
from tests.agent.training.command import QUICK, workplace
from tests.deploy.conftest import ROOT, Image, farsim, left_of, output_of, start

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1500)]

#: Of the simulators' image, over what it is built on.
MOST_MEGABYTES = 150

OWN_SIMULATOR = """
import gymnasium

class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}
"""


@pytest.fixture(scope="module")
def trio(engine: docker.DockerClient, simulator_image: Image) -> Iterator[deployment.Deployment]:
    """Three containers that serve Adder."""
    output = farsim(
        *("deploy", "docker", "up", "adder", "--name", "trio", "--replicas", 3),
        *("--image", simulator_image.tag, "--port", 0),
    )
    noted = deployment.read("trio")
    first, last = noted.addresses[0], noted.addresses[-1].rpartition(":")[2]
    assert f"--sims {first}-{last}" in output
    yield noted
    assert "3 containers" in farsim("deploy", "docker", "down", "trio")
    assert left_of(engine, "trio") == []


def added_megabytes(engine: docker.DockerClient, image: Image) -> float:
    """What an image is larger than what it was built on."""
    sizes = [engine.images.get(name).attrs["Size"] for name in (image.tag, image.base)]
    return (sizes[0] - sizes[1]) / 1e6


# The first one, since the images are built for it: until then no container's probes take time.
def test_compose_brings_up_simulators_and_a_head_that_trains_on_them(
    engine, compose, simulator_image, head_image, tmp_path
):
    print(f"the head's image adds {added_megabytes(engine, head_image):.0f} MB")
    project = "farsim-test"
    config = tmp_path / "quick.yaml"
    config.write_text(QUICK)
    config.chmod(0o644)
    command = (*compose, "--file", str(ROOT / "compose.yaml"), "--project-name", project)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SIM_IMAGE": simulator_image.tag,
            "TRAIN_IMAGE": head_image.tag,
            "SIMULATOR": "adder",
            "STOP_STEPS": "800",
            "CONFIG": str(config),
        }.items():
            patch.setenv(name, value)
        try:
            output = output_of(
                *(*command, "up", "--no-build", "--no-color"),
                *("--abort-on-container-exit", "--exit-code-from", "head"),
            )
            assert "PPO on adder at sim-a:50051, sim-b:50051" in output
            assert "iteration 2 " in output and "finished" in output and "/runs/compose" in output
        finally:
            output_of(*command, "down", "--volumes", "--timeout", "20")
    label = {"label": f"com.docker.compose.project={project}"}
    assert not engine.containers.list(all=True, filters=label)
    assert not engine.networks.list(filters=label) and not engine.volumes.list(filters=label)


def test_the_simulator_image_is_small(engine, simulator_image):
    added = added_megabytes(engine, simulator_image)
    print(f"the simulators' image adds {added:.0f} MB")
    assert added <= MOST_MEGABYTES
    assert engine.images.get(simulator_image.tag).attrs["Config"]["User"] == "10001:10001"


def test_containers_may_do_little(engine, trio):
    container = engine.containers.get("farsim-trio-0")
    _, status = container.exec_run(["cat", "/proc/self/status"])
    facts = dict(line.split(":\t", 1) for line in status.decode().splitlines() if ":\t" in line)
    assert set(facts["Uid"].split()) == {"10001"}
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    code, said = container.exec_run(["touch", "/opt/farsim/new"])
    assert code != 0 and b"Read-only" in said
    limits = container.attrs["HostConfig"]
    assert (
        limits["Memory"] == 1 << 30 and limits["PidsLimit"] == 512 and limits["NanoCpus"] == 10**9
    )
    published = container.attrs["HostConfig"]["PortBindings"]["50051/tcp"]
    assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]


def test_the_list_and_the_logs_are_of_this_deployment(trio):
    (listed,) = (
        each
        for each in json.loads(farsim("deploy", "docker", "list", "--json"))
        if each["name"] == "trio"
    )
    assert listed["addresses"] == list(trio.addresses)
    assert set(listed["containers"].values()) == {"healthy"}
    lines = farsim("deploy", "docker", "logs", "trio").splitlines()
    assert lines == [
        f"farsim-trio-{replica} | farsim: serving adder on 0.0.0.0:50051" for replica in range(3)
    ]


def test_names_and_ports_that_are_taken_are_told(engine, trio, simulator_image):
    up = ("deploy", "docker", "up", "adder", "--image", simulator_image.tag)
    assert "is there already" in farsim(*up, "--name", "trio", "--port", 0, code=1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        output = farsim(*up, "--name", "second", "--port", port, code=1)
    assert f"something listens on 127.0.0.1:{port} already" in output and "--port 0" in output
    assert left_of(engine, "second") == []
    assert len(left_of(engine, "trio")) == 4  # Three containers and a network.


def test_training_goes_on_without_a_container_that_is_killed(engine, trio, tmp_path):
    with workplace(tmp_path) as place:
        out = tmp_path / "run"
        process = place.start(
            *("train", "--deployment", "trio", "--config", place.quick, "--num-envs", 9),
            *("--out", out),
        )
        printed: list[str] = []

        def until(iteration: int) -> None:
            for line in process.stdout:
                printed.append(line)
                if line.startswith(f"iteration {iteration} "):
                    return
            raise AssertionError("".join(printed))

        try:
            until(3)
            victim = engine.containers.get("farsim-trio-1")
            victim.kill()
            # What was sampled before it died may make the next iterations.
            until(12)
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 130, "".join(printed) + output
        place.check_clean()
    description = json.loads((out / "run.json").read_text())
    assert description["servers"] == list(trio.addresses)
    assert description["simulator"] == "adder"
    # Not for long, as the network between here and there can not fail.
    assert description["connection"] == {"resume_seconds": 5.0}
    assert int(read_progress(out / "progress.csv")[-1]["steps"]) >= 12 * 400
    victim.reload()
    assert victim.status == "exited"
    victim.start()


def test_a_server_in_a_container_drains_on_sigterm(engine, trio):
    container = engine.containers.get("farsim-trio-2")
    container.stop(timeout=20)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    container.start()


def test_simulators_of_ones_own_with_workers_certificates_and_a_token(
    engine, simulator_image, tmp_path
):
    certificates, folder = tmp_path / "certs", tmp_path / "sims"
    make_certificates(certificates)
    make_token(certificates / "token")
    folder.mkdir()
    (folder / "own.py").write_text(OWN_SIMULATOR)
    farsim(
        *("deploy", "docker", "up", "own:Own", "--name", "own", "--folder", folder),
        *("--workers", 2, "--tls", certificates, "--image", simulator_image.tag, "--port", 0),
    )
    try:
        noted = deployment.read("own")
        assert len(noted.addresses) == 2
        flags = [
            text
            for field, value in noted.connection.items()
            for text in (f"--{field.replace('_', '-')}", value)
        ]
        for address in noted.addresses:
            farsim("check", address, "--health", code=2)
            farsim("check", address, "--only", "describe", *flags)
    finally:
        farsim("deploy", "docker", "down", "own")
    assert left_of(engine, "own") == []


def test_a_container_that_fails_is_named_with_what_it_printed(engine, simulator_image):
    output = farsim(
        *("deploy", "docker", "up", "no_such_thing", "--name", "failing", "--port", 0),
        *("--image", simulator_image.tag),
        code=1,
    )
    assert re.search(
        r"farsim-failing-0 ended(?: with code 1|, and was started anew)\. It printed:", output
    )
    assert "no simulator 'no_such_thing'" in output
    assert left_of(engine, "failing") == []


def test_ctrl_c_removes_what_was_started(engine, simulator_image, tmp_path: Path):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    events = engine.events(decode=True, filters={"type": "container", "event": "start"})
    process = start(
        *("deploy", "docker", "up", "endless:Endless", "--name", "endless", "--port", 0),
        *("--folder", tmp_path, "--image", simulator_image.tag),
    )
    try:
        next(event for event in events if event["Actor"]["Attributes"]["name"].endswith("less-0"))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        events.close()
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert left_of(engine, "endless") == []


def test_missing_images_and_unknown_deployments_are_told(engine):
    output = farsim("deploy", "docker", "up", "adder", "--image", "farsim-test/none", code=1)
    assert "no image 'farsim-test/none'" in output and "farsim deploy docker build sim" in output
    assert "no deployment 'nowhere'" in farsim("deploy", "docker", "down", "nowhere", code=1)
    assert "no deployment 'nowhere'" in farsim("deploy", "docker", "logs", "nowhere", code=1)
