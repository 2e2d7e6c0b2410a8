"""A Docker Engine, images built in it, and the command ``farsim deploy docker``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import psutil
import pytest

from farsim import deployment

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "tests" / "deploy" / "engine.sh"


def output_of(*command: str | Path) -> str:
    """The standard output of what must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout.strip()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """The engine; what tests leave in it is removed, and it is stopped if it was started here."""
    started = output_of(ENGINE, "start", tmp_path_factory.mktemp("engine") / "log")
    client = docker.from_env(timeout=600)
    before = images(client)
    try:
        yield client
        new = images(client) - before
        # An image goes before those that it was made of.
        while new:
            gone = set(filter(lambda image: removed(client, image), new))
            assert gone, f"images can not be removed: {new}"
            new = images(client) - before
    finally:
        client.close()
        if started:
            process = psutil.Process(int(started))
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def images(client: docker.DockerClient) -> set[str]:
    """All but the one that others are built on, which the next run needs again."""
    return {
        image.id
        for image in client.images.list(all=True)
        if not any("python" in tag for tag in image.tags)
    }


def removed(client: docker.DockerClient, image: str) -> bool:
    with contextlib.suppress(docker.errors.APIError):
        client.images.remove(image, force=True)
        return True
    return False


@dataclass(frozen=True)
class Image:
    """A name, and the image that it was built on."""

    tag: str
    base: str


@pytest.fixture(scope="session")
def base(engine: docker.DockerClient) -> str:
    """The image that others are built on."""
    return output_of(ENGINE, "base").splitlines()[-1]


def wheels(folder: Path, requirements: str, *arguments: object) -> Path:
    """A folder of the wheels that the images' Python takes, of this machine's package index."""
    wanted = folder / "requirements.txt"
    wanted.write_text(requirements)
    output_of(
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
        *("--only-binary=:all:", "--python-version=3.11", "--dest", folder),
        *("--constraint", ROOT / "constraints.txt", "--requirement", wanted, *map(str, arguments)),
    )
    return folder


@pytest.fixture(scope="session")
def simulator_image(base: str, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Built from wheels alone, as on a machine whose builds reach no network."""
    script = ROOT / "deploy" / "docker" / "requirements.py"
    needed = output_of(sys.executable, script, ROOT / "pyproject.toml", "sim", "--build")
    wheelhouse = wheels(tmp_path_factory.mktemp("wheels"), needed)
    image = Image("farsim-test/sim", base)
    farsim(
        *("deploy", "docker", "build", "sim", "--tag", image.tag, "--base-image", base),
        *("--wheelhouse", wheelhouse, "--no-index"),
    )
    return image


@pytest.fixture(scope="session")
def head_image(base: str, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Built from the package index, but for PyTorch: this machine's, which may lack CUDA."""
    wheelhouse = wheels(tmp_path_factory.mktemp("torch"), "torch", "--no-deps")
    image = Image("farsim-test/train", base)
    arguments = {
        "EXTRAS": "train",
        # Bytecode of all of it takes longer to make than to do without.
        "PIP_NO_COMPILE": "1",
        # As this machine's pip has them.
        **{name: os.environ[name] for name in ("PIP_CERT", "PIP_INDEX_URL") if name in os.environ},
    }
    farsim(
        *("deploy", "docker", "build", "train", "--tag", image.tag, "--base-image", base),
        *("--wheelhouse", wheelhouse, "--network", "host"),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
    )
    for wheel in wheelhouse.glob("*.whl"):
        wheel.unlink()
    return image


@pytest.fixture(scope="session")
def compose() -> tuple[str, ...]:
    """The command of Docker Compose: a plugin of the engine's client, or by itself."""
    output_of(ENGINE, "install")
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ("docker", "compose") if plugin.returncode == 0 else ("docker-compose",)


@pytest.fixture(autouse=True, scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place of the tests' own for notes of deployments."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSIM_STATE", str(folder))
        yield folder
        assert deployment.names() == []


def start(*arguments: object) -> subprocess.Popen[str]:
    """A ``farsim`` command that runs, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "farsim", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def farsim(*arguments: object, code: int = 0) -> str:
    """What a ``farsim`` command printed, which must exit with ``code``."""
    process = start(*arguments)
    try:
        output, _ = process.communicate(timeout=1200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, output
    return output


def left_of(engine: docker.DockerClient, name: str) -> list[str]:
    """What there still is of a deployment."""
    selection = {"label": f"farsim.deployment={name}"}
    return [
        *(found.name for found in engine.containers.list(all=True, filters=selection)),
        *(found.name for found in engine.networks.list(filters=selection)),
        *(found.name for found in engine.volumes.list(filters=selection)),
    ]
