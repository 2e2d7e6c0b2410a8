"""Recording what was decided on what, and what a second checkpoint would have done."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tree

from agent.live.inference import (
    AgentStep,
    Answer,
    Decision,
    End,
    Inference,
    LiveEpisode,
    Masks,
    Query,
)
from agent.policy.audit import Audit

log = logging.getLogger(__name__)

#: Decisions that wait at most. What comes on top of them is missed, and the log says so.
_WAITING = 65536
#: Decisions that a shadow is asked about at once, at most.
_AT_ONCE = 256
#: A shadow's difference up to which it is said to agree.
_SAME = 1e-6


@dataclass(frozen=True)
class Record:
    """One decision.

    Attributes:
        time: seconds since 1970.
        policy: whose it was.
        observation: what was seen.
        action_masks: that came with it.
        answer: the policy's; None if it was not asked.
        action: what was done, as far as it is known.
        episode: where; None for single questions.
        agent: who.
        is_logged: whether someone else chose ``action``.
    """

    time: float
    policy: str
    observation: Any
    action_masks: Masks
    answer: Answer | None
    action: Any
    episode: LiveEpisode | None = None
    agent: str = ""
    is_logged: bool = False


class Recorder:
    """Writes decisions to an audit log, with a shadow's beside them, in a thread of its own.

    Nobody waits for it: if it cannot keep up, the log says how many decisions it has missed.

    Args:
        audit: where to write; None for the shadow's figures alone.
        shadow: who is asked too, and not listened to; always for the likeliest action.

    Attributes:
        compared: decisions that the shadow was asked about.
        agreed: those on which it would have done the same, to float tolerance.
        missed: decisions that are not in the log.
    """

    def __init__(self, audit: Audit | None, shadow: Inference | None = None) -> None:
        self._audit = audit
        self._shadow = shadow
        self._waiting: deque[Record] = deque()
        self._some = threading.Condition()
        self._is_closed = False
        self._unsaid = 0
        # What a recurrent shadow remembers, by episode and agent.
        self._states: dict[tuple[LiveEpisode, str], Any] = {}
        self._ended: list[LiveEpisode] = []
        self.compared = self.agreed = self.missed = 0
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def add(self, records: Iterable[Record]) -> None:
        """Records decisions, later."""
        with self._some:
            for record in records:
                if len(self._waiting) < _WAITING:
                    self._waiting.append(record)
                else:
                    self.missed += 1
                    self._unsaid += 1
            self._some.notify()

    def forget(self, episode: LiveEpisode) -> None:
        """No decision of this episode will come any more."""
        with self._some:
            self._ended.append(episode)

    def close(self) -> None:
        """Writes what waits, and closes the log."""
        with self._some:
            self._is_closed = True
            self._some.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._some:
                self._some.wait_for(lambda: self._waiting or self._is_closed)
                count = min(len(self._waiting), _AT_ONCE)
                records = [self._waiting.popleft() for _ in range(count)]
                unsaid, self._unsaid = self._unsaid, 0
                ended, self._ended = (self._ended, []) if not self._waiting else ([], self._ended)
            if not records:
                break
            try:
                self._write(records, unsaid)
            except Exception:  # A full disk must not end the thread.
                self.missed += len(records)
                log.exception("the audit log misses %d decisions", len(records))
            for episode in ended:
                for key in [key for key in self._states if key[0] is episode]:
                    del self._states[key]
        if self._audit is not None:
            self._audit.close()

    def _write(self, records: Sequence[Record], missed: int) -> None:
        try:
            others = self._ask_shadow(records)
        except Exception:  # Whatever a shadow does, the log goes on.
            log.exception("the shadow cannot answer")
            others = [None] * len(records)
        if self._audit is None:
            return
        if missed:
            self._audit.write({"time": records[0].time, "missed": missed})
        for record, other in zip(records, others, strict=True):
            self._audit.write(_row(record, other))
        self._audit.flush()

    def _ask_shadow(self, records: Sequence[Record]) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(records)
        if self._shadow is None:
            return answers
        for rows in _rounds(records):
            queries = [
                Query(
                    record.observation,
                    record.action_masks,
                    self._states.get((record.episode, record.agent)) if record.episode else None,
                    True,
                    None,
                )
                for record in (records[row] for row in rows)
            ]
            found = self._shadow.act(records[rows[0]].policy, queries)
            for row, answer in zip(rows, found, strict=True):
                record = records[row]
                answers[row] = answer
                if answer.state is not None and record.episode is not None:
                    self._states[record.episode, record.agent] = answer.state
                self.compared += 1
                self.agreed += difference(record.action, answer.action) <= _SAME
        return answers


class RecordingSink:
    """An ``EpisodeSink`` that records what is decided, in episodes and in calls."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def started(self, episode: LiveEpisode) -> None:
        """Nothing has been decided yet."""

    def stepped(self, episode: LiveEpisode, steps: Sequence[AgentStep]) -> None:
        """Rewards are no decisions."""

    def acted(self, episode: LiveEpisode, decisions: Sequence[Decision]) -> None:
        self._add(decisions, episode)

    def called(self, decisions: Sequence[Decision]) -> None:
        self._add(decisions, None)

    def ended(self, episode: LiveEpisode, end: End) -> None:
        self._recorder.forget(episode)

    def _add(self, decisions: Sequence[Decision], episode: LiveEpisode | None) -> None:
        now = time.time()
        self._recorder.add(
            Record(
                now,
                decision.policy,
                decision.observation,
                decision.action_masks,
                decision.answer,
                decision.action,
                episode,
                decision.agent,
                decision.is_logged,
            )
            for decision in decisions
        )


def difference(one: Any, other: Any) -> float:
    """The largest difference of two actions' numbers; of choices, 1 where they are not the same."""
    largest = 0.0
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        mine, others = np.asarray(a), np.asarray(b)
        if np.issubdtype(mine.dtype, np.floating):
            apart = np.abs(mine.astype(np.float64) - others)
        else:
            apart = (mine != others).astype(np.float64)
        largest = max(largest, float(apart.max(initial=0.0)))
    return largest


def _rounds(records: Sequence[Record]) -> list[list[int]]:
    """Rows that can be asked about together: of one policy, and one of each agent's at a time."""
    rounds: list[list[int]] = []
    places: dict[tuple[str, int], int] = {}
    turns: dict[tuple[int, str], int] = {}
    for row, record in enumerate(records):
        turn = 0
        if record.episode is not None:
            key = (id(record.episode), record.agent)
            turn = turns.get(key, 0)
            turns[key] = turn + 1
        place = places.setdefault((record.policy, turn), len(rounds))
        if place == len(rounds):
            rounds.append([])
        rounds[place].append(row)
    return rounds


def _row(record: Record, other: Answer | None) -> dict[str, Any]:
    """With the keys of the log's columns."""
    row: dict[str, Any] = {
        "time": record.time,
        "policy": record.policy,
        "version": record.answer.version if record.answer is not None else None,
        "episode": record.episode.name if record.episode is not None else None,
        "agent": record.agent or None,
        "observation": record.observation,
        "action_masks": list(record.action_masks) or None,
        "action": record.action,
        "is_logged": record.is_logged,
        "answer": record.answer.action if record.answer is not None else None,
    }
    if other is not None:
        row["shadow_version"] = other.version
        row["shadow_action"] = other.action
        row["shadow_difference"] = difference(record.action, other.action)
    return row
