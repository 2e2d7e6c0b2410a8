import pytest

from farsim import addresses
from farsim.errors import InvalidAddress


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sim-a:50051", ["sim-a:50051"]),
        ("10.0.0.4:50051-50053", ["10.0.0.4:50051", "10.0.0.4:50052", "10.0.0.4:50053"]),
        ("a:1-1", ["a:1"]),
        (" a:1 , b:2,", ["a:1", "b:2"]),
        (["a:1-2,b:3", "c.example.com:4"], ["a:1", "a:2", "b:3", "c.example.com:4"]),
        ("[::1]:7-8", ["[::1]:7", "[::1]:8"]),
        ("[fe80::1%eth0]:7", ["[fe80::1%eth0]:7"]),
        ("a:65535", ["a:65535"]),
        (("a:1", "a:1"), ["a:1", "a:1"]),
    ],
)
def test_expand(given, expected):
    assert addresses.expand(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "there is no address"),
        ([], "there is no address"),
        ("localhost", "'localhost' is no address"),
        ("localhost:", "is no address"),
        (":50051", "is no address"),
        ("a:b", "is no address"),
        ("a b:1", "is no address"),
        ("a:1-", "is no address"),
        ("::1:50051", "an IPv6 host stands in brackets"),
        ("http://a:1", "has a scheme"),
        ("a:0", "ports go from 1 to 65535"),
        ("a:65536", "ports go from 1 to 65535"),
        ("a:9-8", "the lower one first"),
        (["a:1", 50051], "an address is a text, not 50051"),
    ],
)
def test_errors_say_what_an_address_looks_like(given, message):
    with pytest.raises(InvalidAddress, match=message) as caught:
        addresses.expand(given)
    assert "write host:port" in str(caught.value)


def test_one_address_is_one():
    addresses.check_one("sim-a:50051")
    addresses.check_one("127.0.0.1:0", port_zero=True)
    for wrong in ("127.0.0.1", "a:1-2", "a:1,b:2", "127.0.0.1:0", ":0"):
        with pytest.raises(InvalidAddress):
            addresses.check_one(wrong)
    with pytest.raises(InvalidAddress):
        addresses.check_one("nonsense", port_zero=True)
