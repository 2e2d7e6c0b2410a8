"""Questions and answers in JSON, whatever they come by."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format

from agent.live import states
from agent.live.batching import Batcher, Outcome
from agent.live.inference import Answer, Decision, EpisodeSink, Masks, Query
from agent.live.metrics import Metrics
from agent.live.policies import Policies, Policy
from agent.policy.json_values import observation_from_json, to_json
from farsim import spaces, tensors
from farsim.errors import DeadlineExceeded, FarsimError, InvalidArgument

_ANSWER_SECONDS = 30.0
_KEYS = {"observation", "agent", "policy", "action_mask", "greedy", "version", "state"}


@dataclass(frozen=True)
class Question:
    """What somebody wants to know.

    Attributes:
        policy: whom to ask.
        version: of it; 0 for the current one.
        query: what.
        arrived: when, by ``time.perf_counter``.
    """

    policy: Policy
    version: int
    query: Query
    arrived: float


class JsonQuestions:
    """Reads questions, has them answered in the batches that gRPC's are in, writes answers.

    Args:
        policies: what is served.
        batcher: who answers.
        greedy: what a question that does not say gets.
        sinks: are told of the answers, as of gRPC's calls.
        metrics: where to count.
    """

    def __init__(
        self,
        policies: Policies,
        batcher: Batcher,
        greedy: bool,
        sinks: Sequence[EpisodeSink] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._policies = policies
        self._batcher = batcher
        self._greedy = greedy
        self._sinks = tuple(sinks)
        self._metrics = metrics or Metrics()

    def describe(self) -> dict[str, Any]:
        """What is served, in the words of ``PolicyDescription``."""
        described = [json_format.MessageToDict(one) for one in self._policies.describe()]
        return {"policies": described}

    def act(self, document: Any) -> dict[str, Any]:
        """The reply to a question.

        Args:
            document: ``observation``, and if need be ``agent`` or ``policy``, ``action_mask``,
                ``greedy``, ``version`` and ``state``.

        Raises:
            FarsimError: why there is none.
        """
        question = self.read(document)
        try:
            return self.write(question, self.ask(question).result(_ANSWER_SECONDS))
        except FutureTimeout as error:
            raise DeadlineExceeded(
                f"no answer within {_ANSWER_SECONDS:g} s", question.policy.name
            ) from error

    def act_alone(self, document: Any) -> Any:
        """The action alone, to ``{"state": <observation>}``.

        Raises:
            FarsimError: why there is none.
        """
        return self.act(unwrapped(document))["action"]

    def read(self, document: Any) -> Question:
        """Raises ``FarsimError`` if it is no question that can be answered."""
        arrived = time.perf_counter()
        if not isinstance(document, dict) or "observation" not in document:
            raise InvalidArgument('send {"observation": ...}', "observation")
        unknown = sorted(document.keys() - _KEYS)
        if unknown:
            raise InvalidArgument(
                f"'{unknown[0]}' is none of {', '.join(sorted(_KEYS))}", unknown[0]
            )
        policy = self._asked(
            _typed(document, "agent", str, ""), _typed(document, "policy", str, "")
        )
        version = _typed(document, "version", int, 0)
        self._policies.check_version(version, [policy])
        query = Query(
            observation_from_json(policy.spec.observation_space, document["observation"]),
            _masks(policy, document.get("action_mask")),
            _state(policy, document.get("state")),
            _typed(document, "greedy", bool, self._greedy),
            None,
        )
        return Question(policy, version, query, arrived)

    def _asked(self, agent: str, name: str) -> Policy:
        if not agent:
            return self._policies.named(name)
        policy = self._policies.of_agent(agent)
        if name and name != policy.name:
            raise InvalidArgument(
                f"policy '{policy.name}' acts for agent '{agent}', not '{name}': name one of the "
                "two",
                "policy",
            )
        return policy

    def ask(self, question: Question) -> Future[Answer]:
        """The answer, as soon as there is one."""
        future: Future[Answer] = Future()

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, FarsimError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome[0])

        self._batcher.submit(question.policy.name, question.version, [question.query], done)
        return future

    def write(self, question: Question, answer: Answer) -> dict[str, Any]:
        """``action``, ``policy``, ``version``, and ``state`` of a recurrent policy."""
        policy, query = question.policy, question.query
        seconds = time.perf_counter() - question.arrived
        self._metrics.answered(policy.name, [seconds])
        decision = Decision(
            agent="",
            policy=policy.name,
            observation=query.observation,
            action_masks=query.action_masks,
            answer=answer,
            action=answer.action,
            seconds=seconds,
        )
        for sink in self._sinks:
            sink.called([decision])
        reply = {
            "action": to_json(answer.action),
            "policy": policy.name,
            "version": answer.version,
        }
        if policy.spec.is_recurrent:
            state = states.to_bytes(policy.name, answer.state)
            reply["state"] = base64.b64encode(state).decode()
        return reply


def deliver_here(outcomes: list[tuple[Callable[[Outcome], None], Outcome]]) -> None:
    """A batcher's way to hand over outcomes where nobody runs an event loop."""
    for done, outcome in outcomes:
        done(outcome)


def unwrapped(document: Any) -> dict[str, Any]:
    """The question in ``{"state": <observation>}``."""
    if not isinstance(document, dict) or document.keys() != {"state"}:
        raise InvalidArgument('send {"state": <observation>}, or use POST /act', "state")
    return {"observation": document["state"]}


def _typed(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = document.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or value is None:
        raise InvalidArgument(f"'{name}' is a {kind.__name__}, not {value!r}", name)
    return value


def _masks(policy: Policy, value: Any) -> Masks:
    """From one list of flags, or a list of those; nothing if everything is allowed."""
    if value is None:
        return ()
    widths = spaces.mask_widths(policy.spec.action_space)
    rows = [value] if len(widths) == 1 and np.ndim(value) == 1 else value
    try:
        masks = tuple(np.asarray(row, np.bool_) for row in rows)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"action_mask: {error}", "action_mask") from error
    sent = [tensors.pack(mask[None]) for mask in masks]
    return policy.masks(sent, 1, "action_mask")[0]


def _state(policy: Policy, value: Any) -> Any:
    if value is None:
        return None
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidArgument(f"'state' is what the last reply said: {error}", "state") from error
    return states.from_bytes(policy.name, data)
