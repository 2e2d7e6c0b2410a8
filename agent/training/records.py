"""The files that a training run leaves: CSV, JSON lines, TensorBoard events."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.training.checkpoint import plain
from agent.training.iteration import Iteration

PROGRESS = "progress.csv"
RESULTS = "result.json"

#: Parts of RLlib's results that are the same each time.
_CONSTANT = {"config", "hostname", "node_ip", "pid", "trial_id", "date"}


class Records:
    """Writes every iteration to ``folder``; files that are there already are continued.

    ``progress.csv`` has one row for each iteration, ``result.json`` RLlib's whole result as one
    line of JSON, and TensorBoard the numbers of the CSV over environment steps.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._csv = folder / PROGRESS
        self._json = folder / RESULTS
        self._columns = list(read_progress(self._csv)[0]) if self._csv.is_file() else []
        self._events = SummaryWriter(str(folder))

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._events.close()

    def add(self, iteration: Iteration, result: Mapping[str, Any]) -> None:
        """Writes one iteration."""
        row = iteration.columns()
        self._add_csv(row)
        kept = {name: value for name, value in result.items() if name not in _CONSTANT}
        with self._json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(kept)) + "\n")
        for name, value in row.items():
            if name not in ("iteration", "steps") and math.isfinite(value):
                tag = name if "/" in name else f"train/{name}"
                self._events.add_scalar(tag, value, global_step=iteration.steps)
        self._events.flush()

    def add_animation(self, tag: str, gif: bytes, height: int, width: int, steps: int) -> None:
        """Gives TensorBoard an animated GIF, which it shows among the images.

        Args:
            tag: its name.
            gif: the file's content.
            height: of its pictures.
            width: of its pictures.
            steps: environment steps so far.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        # SummaryWriter's own add_video does the same, with the help of a package more.
        self._events._get_file_writer().add_summary(summary, steps)
        self._events.flush()

    def _add_csv(self, row: Mapping[str, float]) -> None:
        new = [name for name in row if name not in self._columns]
        if new:
            # Columns come late: there are no infos before the first episode has ended.
            rows = read_progress(self._csv) if self._csv.is_file() else []
            self._columns += new
            with self._csv.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)
        with self._csv.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)


def read_progress(path: Path) -> list[dict[str, str]]:
    """The rows of a ``progress.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
