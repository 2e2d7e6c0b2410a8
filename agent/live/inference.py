"""What the ``Policy`` service asks of a policy, and what it tells whoever learns or keeps records.

The service itself knows nothing of networks or of RLlib: it takes an ``Inference`` and, if what
is lived through matters to somebody, an ``EpisodeSink``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from farsim.v1 import policy_pb2 as pb

#: One mask for each Discrete and MultiDiscrete leaf of an action space: bool [width].
Masks = tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class PolicySpec:
    """What is said of a policy to those who want to use it.

    Attributes:
        name: unique on a server.
        observation_space: of one agent, as the simulator gives it.
        action_space: of one agent, as the simulator takes it.
        has_action_mask: whether every observation has to come with masks.
        is_recurrent: whether an action depends on what was seen before.
        agents: those that it acts for; none: any that no other policy names.
        checkpoint: where the last version comes from, for people.
    """

    name: str
    observation_space: Space[Any]
    action_space: Space[Any]
    has_action_mask: bool = False
    is_recurrent: bool = False
    agents: tuple[str, ...] = ()
    checkpoint: str = ""


@dataclass
class Query:
    """One observation that an action is wanted for.

    Attributes:
        observation: a member of the observation space, with the dtypes of it; read-only.
        action_masks: empty if everything is allowed.
        state: None where an episode begins, later what ``Answer.state`` was.
        greedy: the likeliest action instead of a drawn one.
        episode: who asks: the same object, compared by identity, for all queries of one agent in
            one episode; None if nothing is known of the episode.
    """

    observation: Any
    action_masks: Masks
    state: Any
    greedy: bool
    episode: object


@dataclass
class Answer:
    """The action for one query.

    Attributes:
        action: what the environment takes: a member of the action space.
        state: what ``Query.state`` is to be next; None for a policy without memory. Nested dicts,
            lists and tuples of NumPy arrays, numbers, texts and None, so that it can travel.
        version: of the weights that chose it.
        extras: what a learner needs besides: the action as the network gave it, its
            log-probability, the distribution's inputs, ... Empty where nobody learns.
    """

    action: Any
    state: Any
    version: int
    extras: Mapping[str, Any] = field(default_factory=dict)


class Inference(Protocol):
    """Policies that can be asked. ``act`` is called from one thread at a time."""

    def policies(self) -> Sequence[PolicySpec]:
        """What is served; the same for as long as the server lives, but for ``checkpoint``."""

    def versions(self, policy: str) -> Sequence[int]:
        """Those that can be asked for, increasing, none of them 0; the last is the current one."""

    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        """One answer for each query, in order, all by the same version.

        Args:
            policy: one of ``policies``.
            queries: at least one.
            version: 0 for the current one.

        Raises:
            UnknownPolicy: the version is not served any more.
        """


@dataclass(frozen=True)
class LiveEpisode:
    """One episode of a live simulator. Compared by identity: no two are the same.

    Attributes:
        session: names the session in logs and records; not its secret token.
        number: the client's own for it, unique in the session.
        mode: what the session was opened for.
        client: the program, as it named itself.
    """

    session: str
    number: int
    mode: pb.LiveMode
    client: str = ""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def name(self) -> str:
        """For logs and records: unique on a server."""
        return f"{self.session}-{self.number}"


@dataclass
class Decision:
    """What was done about one observation of one agent.

    Attributes:
        agent: who observed.
        policy: whose spaces these are.
        observation: what was seen; a member of the observation space.
        action_masks: empty if everything was allowed.
        answer: what the policy said; None if it was not asked, which is so for logged actions
            except with SHADOW.
        action: what the agent did as far as it is known: the policy's action, the logged one, or
            the one that the simulator said later was taken instead. A member of the action space.
        is_logged: someone else chose ``action`` from the start.
        is_overridden: ``answer`` asked for another action than the one taken. Neither the
            log-probability nor the network's action in ``answer.extras`` is of ``action`` then.
            Only final once the agent is named again.
        seconds: from the event's arrival to the answer; 0 if there was none.
    """

    agent: str
    policy: str
    observation: Any
    action_masks: Masks
    answer: Answer | None
    action: Any
    is_logged: bool = False
    is_overridden: bool = False
    seconds: float = 0.0

    @property
    def is_on_policy(self) -> bool:
        """Whether ``answer`` chose the action that was taken."""
        return self.answer is not None and not self.is_logged and not self.is_overridden


@dataclass(frozen=True)
class AgentStep:
    """How one agent has fared between two of its observations: the stuff of a transition.

    Attributes:
        agent: who.
        policy: whose spaces these are.
        previous: what was decided on its last observation; None if this is the first one, or if
            the agent was seen without an action before.
        reward: all that was earned since then; 0 at the first observation.
        observation: what is seen now; None if the agent's part ended without a last look.
        action_masks: that came with ``observation``.
        terminated: the agent's part ends here: the world reached an end.
        truncated: it ends here: stopped from outside.
    """

    agent: str
    policy: str
    previous: Decision | None
    reward: float
    observation: Any
    action_masks: Masks
    terminated: bool
    truncated: bool


class End(Enum):
    """How an episode came to its end."""

    ENDED = "ended"  #: The simulator said so.
    ABORTED = "aborted"  #: The simulator said that it is worth nothing to a learner.
    GOODBYE = "goodbye"  #: The session was closed while it ran.
    LOST = "lost"  #: The session was silent for too long, or its lease ran out.
    STOPPED = "stopped"  #: The server stopped.


class EpisodeSink(Protocol):
    """Is told of everything that live sessions go through.

    For each episode: ``started``; then for every event of the simulator that names agents one
    ``stepped`` with those that saw something new or whose part ended, in the event's order, and
    right after it one ``acted`` with what was decided on the new observations (both once that is
    known: an event that gets an error leaves no trace); at last ``ended``.

    An agent's steps form a chain: the first has no ``previous``, every later one brings the
    decision on the observation before, the reward for it, and the next observation; the last one
    is terminated or truncated. When an episode is ended, agents whose part goes on get such a last
    step, truncated, before (without an observation, as nobody has seen one).

    The calls of one episode come in this order and one at a time. They come from the server's
    own thread, which serves everybody: return at once, and hand work on to another thread. An
    exception is logged and changes nothing for the simulator.
    """

    def started(self, episode: LiveEpisode) -> None:
        """The simulator has announced a new episode."""

    def stepped(self, episode: LiveEpisode, steps: Sequence[AgentStep]) -> None:
        """Agents have seen something new, or have ended."""

    def acted(self, episode: LiveEpisode, decisions: Sequence[Decision]) -> None:
        """Actions have been chosen for observations, or have come with them.

        A logged action is among them with ``is_logged``. That the simulator took another action
        than the one chosen is known only later: see ``AgentStep.previous``, the same object.
        """

    def ended(self, episode: LiveEpisode, end: End) -> None:
        """Nothing more comes. What was ``ABORTED`` is for no learner."""

    def called(self, decisions: Sequence[Decision]) -> None:
        """A unary call has been answered: one for each of its rows, of no episode or agent ("")."""
