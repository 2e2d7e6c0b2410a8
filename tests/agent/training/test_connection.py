"""How patient a run is with a deployment's servers."""

import pytest

from agent.training import connection
from farsim.channel import ConnectionOptions
from farsim.deployment import Deployment


@pytest.mark.parametrize(
    ("kind", "addresses", "is_short"),
    [
        ("docker", ("127.0.0.1:50051", "127.0.0.1:50052"), True),
        ("docker", ("[::1]:50051",), True),
        ("docker", ("127.0.0.1:50051", "sim-a:50052"), False),
        ("aci", ("127.0.0.1:50051",), False),
    ],
)
def test_only_containers_of_this_machine_are_soon_given_up(kind, addresses, is_short):
    suited = connection.suited_to(Deployment("some", kind, ("adder",), addresses))
    assert ("resume_seconds" in suited) == is_short
    options = ConnectionOptions.of(suited)
    assert (options.resume_seconds < ConnectionOptions().resume_seconds) == is_short
