"""A log of what was decided on what: JSON lines, or Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agent.training.checkpoint import plain
from farsim.errors import FarsimError

#: Rows of a Parquet file that are in memory at most.
_ROW_GROUP = 4096

_COLUMNS = (
    *("time", "policy", "version", "episode", "agent", "observation", "action_masks"),
    *("action", "is_logged", "answer", "shadow_version", "shadow_action", "shadow_difference"),
    "missed",
)
#: Those that are of a space, and text in Parquet.
_VALUES = ("observation", "action_masks", "action", "answer", "shadow_action")


class InvalidAudit(FarsimError, ValueError):
    """A file that no audit log can be written to."""


class Audit(Protocol):
    """Where records go; called by one thread."""

    def write(self, record: dict[str, Any]) -> None:
        """Adds a record; its keys are those of the columns."""

    def flush(self) -> None:
        """What was written so far survives this process, if the format allows it."""

    def close(self) -> None:
        """Ends the file."""


def open_audit(path: Path) -> Audit:
    """A log for a new file, by its suffix: .jsonl or .parquet.

    JSON lines are appended, and whole after every batch. A Parquet file can only be read once it
    is closed.

    Raises:
        InvalidAudit: another suffix, a Parquet file that is there, or one that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            return _JsonLines(path)
        if path.suffix == ".parquet":
            return _Parquet(path)
    except OSError as error:
        raise InvalidAudit(f"cannot write {path}: {error.strerror or error}", str(path)) from error
    raise InvalidAudit(f"{path} ends neither in .jsonl nor in .parquet", str(path))


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(_json(record)) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Times, names and numbers have columns of their type; observations and actions are JSON."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        text = pyarrow.string()
        types = {
            "time": pyarrow.timestamp("us", tz="UTC"),
            "version": pyarrow.uint64(),
            "shadow_version": pyarrow.uint64(),
            "missed": pyarrow.uint64(),
            "is_logged": pyarrow.bool_(),
            "shadow_difference": pyarrow.float64(),
        }
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, types.get(name, text)) for name in _COLUMNS])
        if path.exists():
            raise InvalidAudit(f"{path} is there already: a Parquet file has an end", str(path))
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        row = {name: record.get(name) for name in _COLUMNS}
        row["time"] = int(record["time"] * 1e6)
        for name in _VALUES:
            if row[name] is not None:
                row[name] = json.dumps(_json(row[name]))
        self._rows.append(row)
        if len(self._rows) >= _ROW_GROUP:
            self._write_rows()

    def flush(self) -> None:
        """Nothing: a row group for every batch would make a file of headers."""

    def close(self) -> None:
        self._write_rows()
        self._writer.close()

    def _write_rows(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
            self._rows = []


def _json(value: Any) -> Any:
    """In JSON's types, bools of masks as 0 and 1."""
    if isinstance(value, np.ndarray) and value.dtype == np.bool_:
        return value.astype(np.int8).tolist()
    if isinstance(value, dict):
        return {str(key): _json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(member) for member in value]
    return plain(value)
