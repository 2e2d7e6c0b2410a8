"""The distribution as users install it: a wheel, in a fresh environment, with one extra."""

import json
import os
import signal
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output. Outside of the source tree, so that only what is installed is found."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


def pip(python: Path, *arguments: str | Path) -> str:
    """This environment's pip, for another one, which takes longer to get one of its own."""
    command = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    return run(*command, *arguments, cwd=python.parent)


@pytest.fixture(scope="module")
def simulator_machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment after ``pip install farsim[sim]``; the folder of its programs."""
    folder = tmp_path_factory.mktemp("simulator_machine")
    venv.create(folder / "venv", with_pip=False)
    programs = folder / "venv" / "bin"
    # Most of what there is to compile is never imported here.
    pip(
        *(programs / "python", "install", "--quiet", "--no-compile"),
        *("--constraint", ROOT / "constraints.txt", f"{wheel}[sim]"),
    )
    return programs


def test_the_wheel_has_the_packages_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folders = {name.partition("/")[0] for name in names}
    [metadata] = [folder for folder in folders if folder.endswith(".dist-info")]
    assert folders == {"farsim", "simserver", "agent", "deploy", metadata}
    assert f"{metadata}/licenses/LICENSE" in names
    # What is in the source tree is in the wheel: typing marks and stubs too.
    for package in folders - {metadata}:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names
        assert f"{package}/py.typed" in names
    assert "farsim/v1/simulator_pb2.pyi" in names


def test_the_extra_for_simulators_brings_no_learner(simulator_machine: Path):
    listed = pip(simulator_machine / "python", "list", "--format", "json")
    installed = {entry["name"].lower() for entry in json.loads(listed)}
    assert {"farsim", "grpcio", "gymnasium", "numpy", "prometheus_client"} <= {
        name.replace("-", "_") for name in installed
    }
    assert not installed & {"ray", "torch", "tensorboard", "pandas", "matplotlib", "pyarrow"}


def test_everything_of_the_worker_side_can_be_imported_there(simulator_machine: Path):
    script = """
import importlib, json, pkgutil, sys
import farsim, simserver

def fail(name):
    raise

lacking = {}
for package in (farsim, simserver):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", fail):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                lacking[module.name] = error.name
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), lacking]))
"""
    answer = run(simulator_machine / "python", "-c", script, cwd=simulator_machine)
    imported, lacking = json.loads(answer)
    assert {"farsim", "simserver", "grpc"} <= set(imported)
    assert not set(imported) & {"agent", "deploy", "ray", "torch"}
    # Clients of other protocols have extras of their own.
    neighbours = "simserver.adapters"
    assert lacking == {
        f"{neighbours}.dm_env_rpc_world": "dm_env_rpc",
        f"{neighbours}.openenv_world": "websockets",
    }


def test_the_command_works_there(simulator_machine: Path, tmp_path: Path):
    farsim = simulator_machine / "farsim"
    assert "Usage: farsim" in run(farsim, "--help", cwd=tmp_path)
    run(farsim, "certs", "--token", cwd=tmp_path)
    assert (tmp_path / "certs" / "server.pem").exists()
    refused = subprocess.run([farsim, "train", "deeprm"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "install farsim[train]" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_simulator_can_be_served_there(simulator_machine: Path, tmp_path: Path):
    command = [simulator_machine / "farsim", "serve", "adder", "--address", "127.0.0.1:0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("farsim: serving adder on 127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
