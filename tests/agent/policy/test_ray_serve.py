"""``farsim policy --ray-serve``."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.policy import ray_serve
from agent.policy.ray_serve import RayServeMissing
from agent.policy.runtime import Settings
from farsim.errors import InvalidArgument
from tests.servers import ROOT

IS_INSTALLED = all(map(importlib.util.find_spec, ("fastapi", "starlette", "uvicorn")))


def test_what_ray_serve_lacks_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(RayServeMissing, match=r"pip install 'ray\[serve\]==2"):
        ray_serve.application(Settings(Path("anywhere")))


@pytest.mark.skipif(not IS_INSTALLED, reason="ray[serve] is not installed")
def test_replicas_are_checked():
    for replicas in ("0", "x", "3-2", "-1"):
        with pytest.raises(InvalidArgument, match="neither a number nor min-max"):
            ray_serve.application(Settings(Path("anywhere")), replicas=replicas)
    with pytest.raises(InvalidArgument, match="cannot share an audit log"):
        ray_serve.application(Settings(Path("anywhere"), audit=Path("a.jsonl")))


@pytest.mark.slow
@pytest.mark.skipif(not IS_INSTALLED, reason="ray[serve] is not installed")
def test_an_application_answers_and_stops(trained, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ports = tmp_path / "ports"
    arguments = ["--ray-serve", "--address", address, "--port-file", str(ports)]
    process = subprocess.Popen(
        [sys.executable, "-m", "farsim", "policy", str(trained / "masked"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        deadline = time.monotonic() + 120
        while not ports.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/act", json.dumps({"observation": 3}))
        reply = json.loads(connection.getresponse().read())
        assert reply["version"] == 2 and 0 <= reply["action"] < 5
        connection.request("POST", "/act", json.dumps({"observation": 13}))
        assert connection.getresponse().status == 400
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(20)
