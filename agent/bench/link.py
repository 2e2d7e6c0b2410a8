"""A link between the head and the simulators, as it would be elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farsim.errors import InvalidOption

_PART = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|Mbit|Gbit)(/s)?")


@dataclass(frozen=True)
class Link:
    """What a proxy in between does to the bytes.

    Attributes:
        round_trip_ms: how long a byte and its answer are on their way; half of it each.
        megabits: a second, of each direction; 0 for no bound.
    """

    round_trip_ms: float = 0.0
    megabits: float = 0.0

    @classmethod
    def of(cls, text: str) -> Link:
        """From "5ms", "100Mbit", "5ms,1Gbit", or "none".

        Raises:
            InvalidOption: something else.
        """
        values = {"ms": 0.0, "Mbit": 0.0}
        for part in () if text == "none" else text.split(","):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise InvalidOption(
                    f"'{text}' is no link: write 5ms, 100Mbit, 1Gbit, two of them with a comma, "
                    "or none",
                    "link",
                )
            number, unit = float(match["number"]), match["unit"]
            values["ms" if unit == "ms" else "Mbit"] = number * (1000 if unit == "Gbit" else 1)
        return cls(values["ms"], values["Mbit"])

    @property
    def is_there(self) -> bool:
        """Whether it does anything."""
        return bool(self.round_trip_ms or self.megabits)

    def __str__(self) -> str:
        parts = []
        if self.round_trip_ms:
            parts.append(f"{self.round_trip_ms:g}ms")
        if self.megabits >= 1000:
            parts.append(f"{self.megabits / 1000:g}Gbit")
        elif self.megabits:
            parts.append(f"{self.megabits:g}Mbit")
        return ",".join(parts) or "none"
