"""Whether a server says that it serves; for container probes, so it imports little."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status(channel: grpc.Channel, seconds: float, service: str = "") -> str:
    """What the health service says: "SERVING", "NOT_SERVING", ...

    Args:
        channel: to the server.
        seconds: to wait at most.
        service: its full name; empty for the server as a whole.

    Raises:
        grpc.RpcError: nobody says anything.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
