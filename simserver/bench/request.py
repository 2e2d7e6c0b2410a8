"""What a process of ``farsim bench`` is asked for on its command line."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from simserver.bench import local_batch
from simserver.bench.local_batch import LocalBatch


@dataclass(frozen=True)
class Request:
    """Environments.

    Attributes:
        simulator: as ``farsim serve`` takes it.
        options: values of its parameters.
        envs: how many.
        splits: in how many batches of their own, as equal as can be.
    """

    simulator: str
    options: dict[str, Any]
    envs: int
    splits: int = 1

    @classmethod
    def of_command_line(cls) -> Request:
        """From the process's only argument, a JSON object of the attributes."""
        return cls(**json.loads(sys.argv[1]))

    def batches(self) -> list[LocalBatch]:
        """The environments, made."""
        least, more = divmod(self.envs, self.splits)
        return [
            local_batch.make(self.simulator, self.options, least + (number < more))
            for number in range(self.splits)
        ]
