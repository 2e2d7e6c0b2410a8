"""How env runners sample: what a training file's section ``sampling`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farsim.errors import InvalidOption, UnknownOption
from farsim.options import nearest

#: Keys of ``RemoteEnvConfig``, with their types and what they are, for messages.
_KNOWN: dict[str, tuple[type, str]] = {
    "inference": (str, "torch or numpy"),
    "sample_ahead": (bool, "true or false"),
    "splits": (int, "a whole number from 1"),
}


def check(options: Mapping[str, Any], several_agents: bool = False) -> None:
    """Whether a training file, or ``--sampling``, may say so.

    Args:
        options: keys of ``RemoteEnvConfig``.
        several_agents: whether the simulator has several, whose runner has less to choose from.

    Raises:
        UnknownOption: a key that is none of them; says which is nearest.
        InvalidOption: a value that it does not take.
    """
    for name, value in options.items():
        if name not in _KNOWN:
            raise UnknownOption(f"no option '{name}' of sampling{nearest(name, _KNOWN)}", name)
        kind, allowed = _KNOWN[name]
        good = type(value) is kind and (kind is not str or value in ("torch", "numpy"))
        if not good or (kind is int and value < 1):
            raise InvalidOption(f"sampling option '{name}' is {allowed}, not {value!r}", name)
        if several_agents and name != "sample_ahead":
            raise InvalidOption(
                f"sampling option '{name}' is for simulators with one agent: leave it out", name
            )
