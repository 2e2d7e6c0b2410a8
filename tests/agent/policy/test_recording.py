"""The audit log: what is in it, beside what a shadow would have done, and what it misses."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from agent.live.inference import Answer, Decision, End, LiveEpisode, PolicySpec, Query
from agent.policy import recording
from agent.policy.audit import InvalidAudit, open_audit
from agent.policy.recording import Recorder, RecordingSink, difference
from farsim.v1 import policy_pb2 as pb


class Counting:
    """Chooses how often an episode has asked; its state is that number."""

    def __init__(self, version: int = 4) -> None:
        self.version = version
        self.batches: list[int] = []

    def policies(self) -> Sequence[PolicySpec]:
        return []

    def versions(self, policy: str) -> Sequence[int]:
        return [self.version]

    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        self.batches.append(len(queries))
        counts = [(query.state or 0) + 1 for query in queries]
        return [Answer(np.int64(count), count, self.version) for count in counts]


class Broken(Counting):
    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        raise RuntimeError("this shadow is broken")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def episode(number: int = 1) -> LiveEpisode:
    return LiveEpisode("session", number, pb.LIVE_MODE_SERVE, "plant")


def decision(action: int, **fields: Any) -> Decision:
    observation = fields.pop("observation", np.array([0.5, np.inf], np.float32))
    answer = fields.pop("answer", Answer(np.int64(action), None, 7))
    masks = fields.pop("masks", ())
    return Decision(
        "pump", "default_policy", observation, masks, answer, np.int64(action), **fields
    )


def test_calls_are_logged(tmp_path):
    path = tmp_path / "new" / "audit.jsonl"
    recorder = Recorder(open_audit(path))
    seen = {"speed": np.array([1.5], np.float32)}
    one = decision(1, observation=seen, masks=(np.array([True, False]),))
    one.agent = ""
    RecordingSink(recorder).called([one])
    recorder.close()
    (row,) = lines(path)
    assert row.pop("time") > 1.6e9
    assert row == {
        "policy": "default_policy",
        "version": 7,
        "episode": None,
        "agent": None,
        "observation": {"speed": [1.5]},
        "action_masks": [[1, 0]],
        "action": 1,
        "is_logged": False,
        "answer": 1,
    }


def test_episodes_are_logged_with_what_the_operator_did(tmp_path):
    path = tmp_path / "audit.jsonl"
    recorder = Recorder(open_audit(path))
    sink = RecordingSink(recorder)
    one = episode()
    sink.started(one)
    sink.stepped(one, [])
    sink.acted(one, [decision(3)])
    sink.acted(one, [decision(5, answer=Answer(np.int64(2), None, 8), is_logged=True)])
    sink.acted(one, [decision(6, answer=None, is_logged=True)])
    sink.ended(one, End.ENDED)
    recorder.close()
    found = [
        (
            row["episode"],
            row["agent"],
            row["action"],
            row["answer"],
            row["version"],
            row["is_logged"],
        )
        for row in lines(path)
    ]
    assert found == [
        ("session-1", "pump", 3, 3, 7, False),
        ("session-1", "pump", 5, 2, 8, True),
        ("session-1", "pump", 6, None, None, True),
    ]
    assert lines(path)[0]["observation"] == [0.5, ".inf"]


def test_a_log_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "audit.jsonl"
    for action in (1, 2):
        recorder = Recorder(open_audit(path))
        RecordingSink(recorder).acted(episode(), [decision(action)])
        recorder.close()
    assert [row["action"] for row in lines(path)] == [1, 2]


def test_parquet_has_columns_of_their_types(tmp_path):
    path = tmp_path / "audit.parquet"
    recorder = Recorder(open_audit(path), Counting())
    RecordingSink(recorder).acted(episode(), [decision(1), decision(0)])
    recorder.close()
    table = pyarrow.parquet.read_table(path)
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    rows = table.to_pylist()
    assert [row["action"] for row in rows] == ["1", "0"]
    assert [row["version"] for row in rows] == [7, 7]
    assert [json.loads(row["observation"]) for row in rows] == [[0.5, ".inf"]] * 2
    assert [row["shadow_difference"] for row in rows] == [0.0, 1.0]
    with pytest.raises(InvalidAudit, match="is there already"):
        open_audit(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InvalidAudit, match=r"neither in \.jsonl nor in \.parquet"):
        open_audit(tmp_path / "audit.csv")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidAudit, match="cannot write"):
        open_audit(tmp_path / "file" / "audit.jsonl")


def test_a_shadow_remembers_its_own_episodes(tmp_path):
    path = tmp_path / "audit.jsonl"
    shadow = Counting(version=9)
    recorder = Recorder(open_audit(path), shadow)
    sink = RecordingSink(recorder)
    first, second = episode(1), episode(2)
    with recorder._some:  # So that all of them are there at once.
        sink.acted(first, [decision(1)])
        sink.acted(second, [decision(7)])
        sink.acted(first, [decision(2)])
        sink.acted(first, [decision(3)])
    recorder.close()
    rows = lines(path)
    assert [row["shadow_action"] for row in rows] == [1, 1, 2, 3]
    assert [row["shadow_difference"] for row in rows] == [0.0, 1.0, 0.0, 0.0]
    assert {row["shadow_version"] for row in rows} == {9}
    assert (recorder.compared, recorder.agreed) == (4, 3)
    assert shadow.batches == [2, 1, 1]


def test_what_an_episode_remembers_is_forgotten_with_it():
    recorder = Recorder(None, Counting())
    sink = RecordingSink(recorder)
    for number in range(50):
        one = episode(number)
        sink.acted(one, [decision(1)])
        sink.ended(one, End.LOST)
    # The last ones are forgotten when there is nothing else to do.
    sink.acted(episode(50), [decision(1)])
    recorder.close()
    assert len(recorder._states) == 1


def test_a_broken_shadow_or_disk_stops_nothing(tmp_path, caplog):
    path = tmp_path / "audit.jsonl"
    recorder = Recorder(open_audit(path), Broken())
    RecordingSink(recorder).acted(episode(), [decision(1)])
    recorder.close()
    assert "this shadow is broken" in caplog.text
    assert [row["action"] for row in lines(path)] == [1]
    assert recorder.missed == 0

    closed = open_audit(path)
    closed.close()
    recorder = Recorder(closed)
    RecordingSink(recorder).acted(episode(), [decision(1), decision(2)])
    recorder._thread.join(0.1)
    assert recorder._thread.is_alive()
    recorder.close()
    assert recorder.missed == 2
    assert "misses 2 decisions" in caplog.text


def test_what_does_not_fit_is_counted_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_WAITING", 3)
    path = tmp_path / "audit.jsonl"
    recorder = Recorder(open_audit(path))
    sink = RecordingSink(recorder)
    with recorder._some:
        sink.acted(episode(), [decision(number) for number in range(5)])
    recorder.close()
    rows = lines(path)
    assert rows[0]["missed"] == 2
    assert [row["action"] for row in rows[1:]] == [0, 1, 2]
    assert recorder.missed == 2


def test_nobody_waits_for_the_log(tmp_path):
    inside, go = threading.Event(), threading.Event()

    class Slow:
        def write(self, record: dict[str, Any]) -> None:
            inside.set()
            go.wait(30)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    recorder = Recorder(Slow())
    sink = RecordingSink(recorder)
    sink.acted(episode(), [decision(1)])
    assert inside.wait(30)
    sink.acted(episode(), [decision(2)])
    go.set()
    recorder.close()


def test_differences():
    assert difference(np.array([1.0, 2.0]), np.array([1.5, 2.25])) == 0.5
    assert (
        difference({"a": np.int64(3), "b": np.zeros(2)}, {"a": np.int64(4), "b": np.zeros(2)}) == 1
    )
    assert difference(np.int64(3), np.int64(3)) == 0
