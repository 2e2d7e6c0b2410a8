"""The client of a policy's server, for a simulator that runs by itself."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

from gymnasium import Space

from farsim.addresses import check_one
from farsim.channel import ConnectionOptions
from farsim.errors import FarsimError, InvalidArgument
from farsim.live import fallback as fallbacks
from farsim.live.episode import BaseEpisode
from farsim.live.interface import Group, GroupLike, Interface, describe
from farsim.live.link import Link
from farsim.live.play import Rules
from farsim.live.steps import Join, Post, Request, Send, Steps
from farsim.live.upkeep import program
from farsim.protocol import PROTOCOL_VERSION
from farsim.v1 import policy_pb2 as pb

Mode: TypeAlias = Literal["serve", "collect", "shadow"]
SamplingName: TypeAlias = Literal["default", "greedy", "sampled"]

_MODES = {
    "serve": pb.LIVE_MODE_SERVE,
    "collect": pb.LIVE_MODE_COLLECT,
    "shadow": pb.LIVE_MODE_SHADOW,
}
_SAMPLINGS = {
    "default": pb.SAMPLING_UNSPECIFIED,
    "greedy": pb.SAMPLING_GREEDY,
    "sampled": pb.SAMPLING_SAMPLED,
}

#: The deadline if there is a fallback, in seconds.
FALLBACK_DEADLINE = 1.0


class LiveClient:
    """Asks the policies at ``address`` for actions, on behalf of a simulator that owns its loop.

        >>> with LiveClient("head:50061", mode="collect") as client:  # doctest: +SKIP
        ...     with client.episode() as episode:
        ...         observation, reward, terminated, truncated = env.reset()[0], 0.0, False, False
        ...         while not (terminated or truncated):
        ...             action = episode.observe(observation, reward)
        ...             observation, reward, terminated, truncated, _ = env.step(action)
        ...         episode.end(observation, reward, terminated=terminated, truncated=truncated)

    A stream that breaks is resumed, and every event is carried out once all the same. Several
    episodes may run at a time, each in a thread of its own. Needs neither Ray nor PyTorch.

    **Without a fallback** an answer that does not come within ``deadline`` is a
    ``DeadlineExceeded`` (``ServerUnavailable`` if the connection is broken): the episode goes on
    when the next ``observe`` says what was done instead (``action_taken``). A session that cannot
    be resumed within ``ConnectionOptions.resume_seconds`` is lost: its episodes raise
    ``SessionLost`` and are over, and the next ``episode()`` runs in a new session.

    **With a fallback** none of this is raised: the fallback acts, and the server learns what was
    really done with the next event, so that it never learns from an action that was not taken. If
    it has missed an observation, or the session is lost, it depends on the mode: with "serve" the
    policy takes over again as soon as it can (the rest is a new episode to it); with "collect" and
    "shadow" the fallback plays the rest of the episode, and nothing of what was missed is learned
    (``Episode.lost`` says why). Errors of the caller's own are raised all the same.

    A context manager; a client that is forgotten is closed as well. Not to be used across a fork.

    Args:
        address: ``host:port``. A server has to be there.
        mode: "serve": actions, no learning. "collect": the experience goes to the learner.
            "shadow": the policy decides and the server records it, but the simulator keeps its own
            actions and tells them with ``log_action``.
        observation_space: of a single agent; None for what the server describes.
        action_space: of a single agent; both spaces or none.
        groups: several agents and their spaces instead (``farsim.live.Group``); None for those
            that the server's policies name. Spaces that are not the policy's are refused.
        deadline: seconds that an answer may take; None for ``request_seconds``, or with a fallback
            for 1 s.
        fallback: what acts when no answer comes in time. "last": the action before, a zero one at
            first. "zero": zeros, or what the space has nearest to them. Where a mask forbids
            that, the first action allowed. Or a function of the observation (of the agent's name
            and its observation with several agents) that returns an action. None: an error.
        connection: how to connect, and how patient to be.
        sampling: "greedy", "sampled", or "default" for what the server was started with. "collect"
            always samples.
        policy_version: 0 for the last one at every action, or one to stay with.

    Attributes:
        interface: the agents and their spaces.

    Raises:
        ServerUnavailable: nobody answers there within ``connect_seconds``.
        SpaceMismatch: the spaces are not the policy's; says where they differ.
        UnknownPolicy: that version is not served.
        FarsimError: what else the server answered.
    """

    def __init__(
        self,
        address: str,
        mode: Mode = "serve",
        observation_space: Space[Any] | None = None,
        action_space: Space[Any] | None = None,
        groups: Sequence[GroupLike] | None = None,
        deadline: float | None = None,
        fallback: fallbacks.Fallback | None = None,
        connection: ConnectionOptions | Mapping[str, Any] | None = None,
        sampling: SamplingName = "default",
        policy_version: int = 0,
    ) -> None:
        options = ConnectionOptions.of(connection)
        declared = declaration(observation_space, action_space, groups)
        hello = make_hello(mode, declared, options, sampling, policy_version)
        seconds = checked_deadline(deadline, fallback, options)
        check_one(address)
        self.address = address
        self.interface = declared or describe(address, options)
        self._rules = Rules(
            self.interface, hello.mode, seconds, fallback, itertools.count(1), address
        )
        self._options = options
        self._link = Link(address, options, hello)
        # Also when the client is forgotten without being closed, and when the interpreter exits.
        self._finalizer = weakref.finalize(self, self._link.close)
        try:
            self._link.open()
        except BaseException:
            self.close()
            raise

    def episode(self) -> Episode:
        """A new episode; a context manager. The server hears of it with its first observation."""
        return Episode(self._rules, self)

    def close(self) -> None:
        """Ends the session; episodes that run end as truncated. Again does nothing."""
        self._finalizer()

    def __enter__(self) -> LiveClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a LiveClient is a connection of this process and can not be pickled or copied: make "
            "another one where it is needed"
        )

    def __repr__(self) -> str:
        return f"LiveClient({self.address})"

    def _carry_out(self, steps: Steps) -> Any:
        """Does what ``steps`` ask for, and returns what they return."""
        answer: Any = None
        error: FarsimError | None = None
        while True:
            try:
                request = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            answer = error = None
            try:
                answer = self._do(request)
            except FarsimError as raised:
                error = raised

    def _do(self, request: Request) -> Any:
        if isinstance(request, Join):
            return self._link.session(request.until)
        if isinstance(request, Send):
            return self._link.send(
                request.session, request.what, request.event, request.until, request.is_awaited
            )
        if isinstance(request, Post):
            return self._link.post(request.session, request.what, request.event)
        return self._link.wait(request.sent, request.until)


class Episode(BaseEpisode):
    """One episode of the simulator; made by ``LiveClient.episode``, used by one thread at a time.

    As a context manager it ends with the block: as truncated if ``end`` has not been called, and
    as worth nothing (``abort``) if an exception leaves it.
    """

    def __init__(self, rules: Rules, client: LiveClient) -> None:
        super().__init__(rules)
        self._client = client

    def observe(
        self,
        observation: Any,
        reward: Any = 0.0,
        action_mask: Any = None,
        *,
        action_taken: Any = None,
        rewards: Mapping[str, float] | None = None,
        terminateds: Mapping[str, bool] | None = None,
        truncateds: Mapping[str, bool] | None = None,
    ) -> Any:
        """Tells what is seen, and returns what to do.

        With several agents, ``observation``, ``action_mask`` and ``action_taken`` are mappings by
        agent. Name those whose turn it is; the rewards of others wait until they are named.

        Args:
            observation: a value of the observation space.
            reward: what was earned since the last ``observe``.
            action_mask: bool [n], which actions are allowed now; a tuple of such if the action
                space has several Discrete or MultiDiscrete spaces in it. None: all.
            action_taken: what was really done after the last observation, if it is not what
                ``observe`` returned.
            rewards: by agent, several agents only.
            terminateds: the agents whose part the world has ended, with this observation.
                ``"__all__"`` ends the episode.
            truncateds: the agents whose part was stopped from outside, likewise.

        Returns:
            An action of the action space; with several agents a dict with one for each agent that
            was named with an observation and has not ended.

        Raises:
            DeadlineExceeded, ServerUnavailable, SessionLost: see ``LiveClient``.
            InvalidObservation: the structure, a shape or a dtype is not the space's.
            FarsimError: what the server answered; the episode is as it was before.
        """
        return self._client._carry_out(
            self._observe(
                observation, reward, action_mask, action_taken, rewards, terminateds, truncateds
            )
        )

    def log_action(
        self,
        observation: Any,
        action: Any,
        reward: Any = 0.0,
        action_mask: Any = None,
        *,
        rewards: Mapping[str, float] | None = None,
        terminateds: Mapping[str, bool] | None = None,
        truncateds: Mapping[str, bool] | None = None,
    ) -> None:
        """Tells what is seen, and what someone else has chosen to do.

        Does not wait for the server: if it has something against it, the next call raises that.
        With several agents everything is a mapping by agent.

        Args:
            observation: a value of the observation space.
            action: of the action space.
            reward: as at ``observe``.
            action_mask: as at ``observe``.
            rewards: by agent, several agents only.
            terminateds: as at ``observe``; an agent that ends needs no action.
            truncateds: as at ``observe``.
        """
        self._client._carry_out(
            self._log(observation, action, reward, action_mask, rewards, terminateds, truncateds)
        )

    def end(
        self,
        observation: Any = None,
        reward: Any = 0.0,
        *,
        terminated: bool = False,
        truncated: bool = False,
        action_taken: Any = None,
        rewards: Mapping[str, float] | None = None,
        terminateds: Mapping[str, bool] | None = None,
        truncateds: Mapping[str, bool] | None = None,
    ) -> None:
        """Ends the episode, and waits until the server has it all.

        Args:
            observation: the last one; with several agents those of the agents whose part goes on.
                None: the episode just stops here, as truncated.
            reward: what was earned since the last ``observe``.
            terminated: the world reached an end.
            truncated: the episode was stopped from outside. One of the two is True if there is an
                observation; with several agents, who is not terminated is truncated.
            action_taken: as at ``observe``.
            rewards: by agent, several agents only.
            terminateds: by agent, instead of ``terminated``.
            truncateds: by agent, instead of ``truncated``.

        Raises:
            FarsimError: as at ``observe``.
        """
        self._client._carry_out(
            self._end(
                observation,
                reward,
                terminated,
                truncated,
                action_taken,
                rewards,
                terminateds,
                truncateds,
            )
        )

    def abort(self) -> None:
        """Ends the episode as one that is worth nothing to a learner. Never waits, never fails."""
        if not self.is_over:
            self._client._carry_out(self._play.abort())

    def __enter__(self) -> Episode:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_over:
            return
        if kind is None:
            self.end()
        else:
            self.abort()


def declaration(
    observation_space: Space[Any] | None,
    action_space: Space[Any] | None,
    groups: Sequence[GroupLike] | None,
) -> Interface | None:
    """What the caller declares; None to take what the server describes.

    Raises:
        InvalidArgument: one of two spaces, or spaces and groups.
    """
    if (observation_space is None) != (action_space is None):
        raise InvalidArgument("give both spaces, or none", "observation_space")
    if groups is not None and action_space is not None:
        raise InvalidArgument("give either two spaces or groups", "groups")
    if observation_space is not None and action_space is not None:
        groups = [Group(observation_space, action_space)]
    return None if groups is None else Interface.of_groups(groups)


def make_hello(
    mode: str,
    declared: Interface | None,
    options: ConnectionOptions,
    sampling: str,
    policy_version: int,
) -> pb.Hello:
    """The event that opens a session.

    Raises:
        InvalidArgument: a mode or sampling that there is not, or a negative version.
    """
    for what, name, names in (("mode", mode, _MODES), ("sampling", sampling, _SAMPLINGS)):
        if name not in names:
            raise InvalidArgument(f"{what} is one of {', '.join(names)}, not {name!r}", what)
    if policy_version < 0:
        raise InvalidArgument(f"policy_version is 0 or more, not {policy_version}")
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        mode=_MODES[mode],
        groups=() if declared is None else declared.groups,
        client=program(),
        sampling=_SAMPLINGS[sampling],
        policy_version=policy_version,
        lease_seconds=options.lease_seconds,
    )


def checked_deadline(
    deadline: float | None, fallback: fallbacks.Fallback | None, options: ConnectionOptions
) -> float:
    """The deadline that holds, in seconds.

    Raises:
        InvalidArgument: it is not positive, or the fallback is none.
    """
    fallbacks.check(fallback)
    if deadline is None:
        return options.request_seconds if fallback is None else FALLBACK_DEADLINE
    if not deadline > 0:
        raise InvalidArgument(f"a deadline is a positive number of seconds, not {deadline}")
    return float(deadline)
