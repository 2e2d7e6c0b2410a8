"""gRPC's choice of how to wait, in processes of their own, since it is made when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHOICE = "-event_engine_client,-event_engine_listener"


def run(program: str, **environment: str) -> str:
    """What a program prints, on both streams; without a choice of gRPC's unless given."""
    inherited = {k: v for k, v in os.environ.items() if k != "GRPC_EXPERIMENTS"}
    return subprocess.run(
        [sys.executable, "-c", f"import os, sys\nfrom farsim import polling\n{program}"],
        env={**inherited, **environment},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def test_grpc_reads_the_choice_when_it_is_loaded_and_nobody_else_does():
    told = run(
        "from importlib import abc\n"
        "class Watch(abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'grpc': print(os.environ.get('GRPC_EXPERIMENTS'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "polling.settle()\n"
        "print('grpc' in sys.modules, os.environ.get('GRPC_EXPERIMENTS'))\n"
    )
    assert told.split("\n")[:2] == [CHOICE, "True None"]


def test_the_head_settles_it_before_it_loads_grpc():
    told = run(
        "calls = []\n"
        "polling.settle = lambda: calls.append('grpc' in sys.modules)\n"
        "import agent.session\n"
        "print(calls)\n"
    )
    assert told.strip() == "[False]"


def test_a_choice_of_the_user_stands():
    told = run("polling.settle()\nprint('grpc' in sys.modules)", GRPC_EXPERIMENTS="")
    assert told.strip() == "False"


@pytest.mark.parametrize("release", ["1.62.3", "1.79.0", "1.86.0", "2.0.0"])
def test_other_releases_are_left_alone(release: str):
    told = run(
        f"polling.metadata.version = lambda name: '{release}'\n"
        "polling.settle()\n"
        "print('grpc' in sys.modules, os.environ.get('GRPC_EXPERIMENTS'))\n"
    )
    assert told.strip() == "False None"


def test_forks_beside_a_connection_go_without_a_word() -> None:
    told = run(
        "polling.settle()\n"
        "import grpc, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "server = grpc.server(ThreadPoolExecutor(1))\n"
        "port = server.add_insecure_port('127.0.0.1:0')\n"
        "server.start()\n"
        "channel = grpc.insecure_channel(f'127.0.0.1:{port}')\n"
        "grpc.channel_ready_future(channel).result(10)\n"
        "import subprocess\n"
        "for _ in range(3): subprocess.run(['true'], preexec_fn=lambda: None, check=True)\n"
        "channel.close(); server.stop(None).wait()\n"
        "print('done')\n"
    )
    assert told.strip() == "done"
