"""One thread that answers the queries of all streams, in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.live.inference import Answer, Inference, Query
from agent.live.metrics import Metrics
from farsim.errors import FarsimError, InternalError

logger = logging.getLogger(__name__)

#: What comes of a request: an answer for each query, or why there is none.
Outcome = Sequence[Answer] | FarsimError
#: How much a new measurement weighs in the averages that the wait goes by.
_WEIGHT = 0.1
#: A gap this many times the usual one means that nobody else is coming now.
_PATIENCE = 2.0


@dataclass
class _Request:
    queries: Sequence[Query]
    done: Callable[[Outcome], None]
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Gathers queries into batches and has them answered, one batch at a time.

    While one batch is being computed the next one gathers by itself. Beyond that a batch waits
    for more queries only if they are likely to come sooner than a forward pass takes, so that
    waiting costs less than another pass would, and never longer than ``max_wait_seconds`` after
    its first query came. A client that is alone is thus never kept waiting.

    The queries of one request are answered by one pass, and so by one version.

    Args:
        inference: who answers.
        deliver: takes outcomes to where they are wanted, a list of (done, outcome) at a time;
            called from the thread of this object.
        max_batch: queries in one pass, unless a single request has more.
        max_wait_seconds: see above; 0 never waits.
        metrics: where to count.
    """

    def __init__(
        self,
        inference: Inference,
        deliver: Callable[[list[tuple[Callable[[Outcome], None], Outcome]]], None],
        max_batch: int,
        max_wait_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._inference, self._deliver, self._metrics = inference, deliver, metrics
        self._max_batch, self._max_wait = max_batch, max_wait_seconds
        self._changed = threading.Condition()
        self._queues: dict[tuple[str, int], deque[_Request]] = {}
        self._waiting = 0
        self._is_asleep = False
        self._is_closed = False
        self._last_arrival = 0.0
        #: Averages in seconds: between two requests, and of a forward pass.
        self._gap, self._pass = 1.0, 0.0
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(
        self,
        policy: str,
        version: int,
        queries: Sequence[Query],
        done: Callable[[Outcome], None],
    ) -> None:
        """Has ``queries``, at least one, answered by one version of a policy.

        Args:
            policy: which.
            version: 0 for the current one.
            queries: what the policy is asked; valid, as nothing is checked any more.
            done: gets the outcome by way of ``deliver``; not at all after ``close``.
        """
        request = _Request(queries, done)
        with self._changed:
            self._gap += _WEIGHT * (min(1.0, request.arrived - self._last_arrival) - self._gap)
            self._last_arrival = request.arrived
            self._queues.setdefault((policy, version), deque()).append(request)
            self._waiting += len(queries)
            if self._is_asleep:
                self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the batch being computed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queues and not self._is_closed:
                    self._is_asleep = True
                    self._changed.wait()
                self._is_asleep = False
                if self._is_closed:
                    return
            self._wait_for_more()
            with self._changed:
                policy, version = min(self._queues, key=lambda key: self._queues[key][0].arrived)
                requests = self._take((policy, version))
                self._metrics.queued(self._waiting)
            self._deliver(self._answer(policy, version, requests))

    def _wait_for_more(self) -> None:
        """Waits while more queries are likely to come soon; holds up nobody who submits."""
        while not self._is_closed:
            with self._changed:
                oldest = min(queue[0].arrived for queue in self._queues.values())
                waiting, gap, last = self._waiting, self._gap, self._last_arrival
            now = time.perf_counter()
            left = min(oldest + self._max_wait, last + _PATIENCE * gap) - now
            if waiting >= self._max_batch or gap >= self._pass or left <= 0:
                return
            time.sleep(left)

    def _take(self, key: tuple[str, int]) -> list[_Request]:
        queue = self._queues[key]
        taken = [queue.popleft()]
        rows = len(taken[0].queries)
        while queue and rows + len(queue[0].queries) <= self._max_batch:
            rows += len(queue[0].queries)
            taken.append(queue.popleft())
        if not queue:
            del self._queues[key]
        self._waiting -= rows
        return taken

    def _answer(
        self, policy: str, version: int, requests: list[_Request]
    ) -> list[tuple[Callable[[Outcome], None], Outcome]]:
        queries = [query for request in requests for query in request.queries]
        started = time.perf_counter()
        outcome = self._ask(policy, version, queries)
        if isinstance(outcome, FarsimError):
            if len(requests) == 1:
                return [(requests[0].done, outcome)]
            # One of them is at fault, or all: asked alone, each gets what it deserves.
            return [
                (request.done, self._ask(policy, version, request.queries)) for request in requests
            ]
        seconds = time.perf_counter() - started
        self._pass += _WEIGHT * (seconds - self._pass)
        self._metrics.inferred(policy, len(queries), seconds)
        outcomes: list[tuple[Callable[[Outcome], None], Outcome]] = []
        row = 0
        for request in requests:
            outcomes.append((request.done, outcome[row : row + len(request.queries)]))
            row += len(request.queries)
        return outcomes

    def _ask(self, policy: str, version: int, queries: Sequence[Query]) -> Outcome:
        try:
            answers: Any = self._inference.act(policy, queries, version)
            if len(answers) != len(queries):
                return InternalError(
                    f"policy '{policy}' gave {len(answers)} answers to {len(queries)} queries"
                )
            return answers
        except FarsimError as error:
            return error
        except Exception as error:
            logger.exception("policy '%s' failed", policy)
            return InternalError(f"policy '{policy}' failed: {type(error).__name__}: {error}")
