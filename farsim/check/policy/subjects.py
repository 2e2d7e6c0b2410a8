"""The policies of a server, to be looked at one by one."""

from __future__ import annotations

import grpc

from farsim.channel import ConnectionOptions, open_channel, translate
from farsim.check.policy.subject import PolicySubject
from farsim.errors import UnknownPolicy
from farsim.options import nearest
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc


def describe(address: str, connection: ConnectionOptions) -> pb.DescribePoliciesReply:
    """What the server says it has.

    Raises:
        FarsimError: it can not be reached, does not let us in, or is no server of policies.
    """
    with open_channel(address, connection) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        try:
            request = pb.DescribePoliciesRequest()
            return stub.Describe(request, timeout=connection.connect_seconds)
        except grpc.RpcError as error:
            raise translate(error, address) from error


def subjects(
    address: str, connection: ConnectionOptions, policy: str = "", seconds: float = 20.0
) -> list[PolicySubject]:
    """The policies of a server, or the one called ``policy``.

    Raises:
        UnknownPolicy: there is none.
        FarsimError: the server can not be asked.
    """
    description = describe(address, connection)
    names = [found.name for found in description.policies]
    if not names or (policy and policy not in names):
        what = f"no policy '{policy}'" if policy else "no policies"
        raise UnknownPolicy(f"{address} has {what}{nearest(policy, names)}", policy)
    return [
        PolicySubject(address, connection, description, each, seconds)
        for each in description.policies
        if not policy or each.name == policy
    ]
