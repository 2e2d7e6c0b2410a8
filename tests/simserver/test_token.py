"""The token that a server takes from its environment, as in a container."""

from __future__ import annotations

import grpc
import pytest

from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc
from tests.servers import serving


def test_a_token_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FARSIM_TOKEN", "sesame\n")
    with serving("adder") as server, grpc.insecure_channel(server.address) as channel:
        describe = simulator_pb2_grpc.SimulatorStub(channel).Describe
        with pytest.raises(grpc.RpcError) as refused:
            describe(pb.DescribeRequest(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = [("authorization", "Bearer sesame")]
        assert describe(pb.DescribeRequest(), timeout=10, metadata=metadata).simulators
