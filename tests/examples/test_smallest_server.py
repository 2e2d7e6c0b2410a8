"""The server of the author's guide, and what the guide says about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from agent.remote_vector_env import RemoteVectorEnv
from farsim.errors import Unsupported
from tests.servers import ROOT

GUIDE = (ROOT / "docs" / "authoring.md").read_text()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, str(ROOT / "examples" / "smallest_server.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


def test_it_keeps_the_contract(address: str):
    result = subprocess.run(
        [sys.executable, "-m", "farsim", "check", address],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert result.returncode == 0, result.stdout
    assert "blocked" not in result.stdout


def test_it_is_a_vector_environment(address: str):
    env = RemoteVectorEnv(address, "walk", num_envs=8)
    try:
        first, _ = env.reset(seed=3)
        episode = [env.step(np.arange(8) % 2)[:2] for _ in range(30)]
        again, _ = env.reset(seed=3)
        np.testing.assert_array_equal(first, again)
        for observation, reward in episode:
            seen, earned, *_ = env.step(np.arange(8) % 2)
            np.testing.assert_array_equal(observation, seen)
            np.testing.assert_array_equal(reward, earned)
    finally:
        env.close()


def test_a_mode_that_it_has_not_is_named(address: str):
    """By which ``farsim train`` knows to ask for another one."""
    with pytest.raises(Unsupported) as refused:
        RemoteVectorEnv(address, "walk", num_envs=1, autoreset_mode="SameStep")
    assert refused.value.subject == "autoreset_mode"


def test_the_guides_requests_by_hand(address: str):
    """As `grpcurl` would: JSON in and out, the messages known from reflection alone."""
    lines = re.search(r"<<'END'\n(.*?)\nEND", GUIDE, re.DOTALL)
    assert lines
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("farsim.v1.Simulator").FindMethodByName("Run")
        request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        run = channel.stream_stream(
            "/farsim.v1.Simulator/Run",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        asked = [json_format.Parse(line, request()) for line in lines[1].splitlines()]
        replies = [json_format.MessageToDict(message) for message in run(iter(asked), timeout=30)]
    assert [sorted(set(message) - {"sequence"}) for message in replies] == [
        ["opened"],
        ["batch"],
        ["batch"],
        ["closed"],
    ], json.dumps(replies)


def test_the_archive_is_all_that_an_author_needs(tmp_path):
    subprocess.run(
        [str(ROOT / "proto" / "archive.sh"), str(tmp_path)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    subprocess.run(["tar", "xzf", "farsim-proto.tar.gz"], check=True, cwd=tmp_path)
    archive = tmp_path / "farsim-proto"
    files = descriptor_pb2.FileDescriptorSet.FromString((archive / "farsim.v1.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        assert file.source_code_info.location  # Comments and all.
        pool.Add(file)
    for service in ("Simulator", "SimulatorGateway", "Policy"):
        assert pool.FindServiceByName(f"farsim.v1.{service}").methods
    text = (archive / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (archive / target).exists(), target
