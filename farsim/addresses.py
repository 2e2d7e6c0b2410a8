"""Server addresses as people write them.

>>> from farsim import addresses
>>> addresses.expand("sim-a:50051-50053, [::1]:50051")
['sim-a:50051', 'sim-a:50052', 'sim-a:50053', '[::1]:50051']
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from farsim.errors import InvalidAddress

_EXPECTED = "write host:port, or host:first-last for several ports, such as sim-a:50051-50054"

#: A name or an IPv4 address; or an IPv6 address, with its zone, in brackets.
_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\])"
    r":(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?"
)


def expand(addresses: str | Iterable[str]) -> list[str]:
    """Every ``host:port`` that ``addresses`` name, in their order.

    Args:
        addresses: one text or several; each a comma-separated list of ``host:port`` or
            ``host:first-last``, which means the ports from first to last, both included. An
            IPv6 host stands in brackets.

    Raises:
        InvalidAddress: one of them is neither, or there are none; says which and what is expected.
    """
    texts = [addresses] if isinstance(addresses, str) else list(addresses)
    for text in texts:
        if not isinstance(text, str):
            raise InvalidAddress(f"an address is a text, not {text!r}: {_EXPECTED}", repr(text))
    parts = [part.strip() for text in texts for part in text.split(",")]
    expanded = [address for part in parts if part for address in _expand_one(part)]
    if not expanded:
        raise InvalidAddress(f"there is no address: {_EXPECTED}")
    return expanded


def _expand_one(text: str) -> list[str]:
    if "://" in text:
        raise InvalidAddress(f"'{text}' has a scheme, which an address does not: {_EXPECTED}", text)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        hint = "; an IPv6 host stands in brackets" if text.count(":") > 1 else ""
        raise InvalidAddress(f"'{text}' is no address{hint}: {_EXPECTED}", text)
    first = int(match["first"])
    last = int(match["last"] or first)
    if not 1 <= first <= last <= 65535:
        raise InvalidAddress(
            f"'{text}': ports go from 1 to 65535, the lower one first: {_EXPECTED}", text
        )
    return [f"{match['host']}:{port}" for port in range(first, last + 1)]


def check_one(address: str, port_zero: bool = False) -> None:
    """Raises ``InvalidAddress`` unless ``address`` is one ``host:port``.

    Args:
        address: as it was given.
        port_zero: whether port 0, any free one, is fine.
    """
    if port_zero and address.rpartition(":")[0] and address.endswith(":0"):
        return
    if len(expand(address)) != 1:
        raise InvalidAddress(f"'{address}' is more than one address: give one host:port", address)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a ``host:port``.

    A name other than localhost counts as reachable from elsewhere.
    """
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
