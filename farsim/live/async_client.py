"""``LiveClient`` for asyncio."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import grpc
from gymnasium import Space

from farsim.addresses import check_one
from farsim.channel import ConnectionOptions, call_metadata, open_aio_channel, translate
from farsim.errors import FarsimError, ProtocolError
from farsim.live import fallback as fallbacks
from farsim.live.async_link import AsyncLink
from farsim.live.client import Mode, SamplingName, checked_deadline, declaration, make_hello
from farsim.live.episode import BaseEpisode
from farsim.live.interface import GroupLike, Interface, described
from farsim.live.play import Rules
from farsim.live.steps import Join, Post, Request, Send, Steps
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc


class AsyncLiveClient:
    """``LiveClient`` with coroutines, on gRPC's asyncio: the same arguments and the same promises.

        >>> async with AsyncLiveClient("head:50061") as client:  # doctest: +SKIP
        ...     async with client.episode() as episode:
        ...         action = await episode.observe(observation, reward)

    It connects when the block is entered (or by ``await client.connect()``), belongs to the event
    loop that runs then, and as many episodes as the server takes may run in it at a time.

    Args:
        address: as at ``LiveClient``, as are the others.
        mode: see there.
        observation_space: see there.
        action_space: see there.
        groups: see there.
        deadline: see there.
        fallback: see there; a plain function, not a coroutine.
        connection: see there.
        sampling: see there.
        policy_version: see there.
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
        check_one(address)
        self.address = address
        self._options = ConnectionOptions.of(connection)
        self._declared = declaration(observation_space, action_space, groups)
        self._hello = make_hello(mode, self._declared, self._options, sampling, policy_version)
        self._deadline = checked_deadline(deadline, fallback, self._options)
        self._fallback = fallback
        self._rules: Rules | None = None
        self._link: AsyncLink | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def interface(self) -> Interface:
        """The agents and their spaces; once it is connected."""
        return self._connected.interface

    async def connect(self) -> AsyncLiveClient:
        """Connects; raises as ``LiveClient`` does."""
        if self._link is not None:
            raise ProtocolError(f"the client of {self.address} is connected already", self.address)
        interface = self._declared or await _describe(self.address, self._options)
        self._rules = Rules(
            interface,
            self._hello.mode,
            self._deadline,
            self._fallback,
            itertools.count(1),
            self.address,
        )
        self._link = AsyncLink(self.address, self._options, self._hello)
        # A client that is forgotten without being closed.
        self._finalizer = weakref.finalize(self, self._link.abandon)
        self._finalizer.atexit = False
        try:
            await self._link.open()
        except BaseException:
            await self.close()
            raise
        return self

    def episode(self) -> AsyncEpisode:
        """As ``LiveClient.episode``."""
        return AsyncEpisode(self._connected, self)

    async def close(self) -> None:
        """As ``LiveClient.close``."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._link is not None:
            await self._link.close()

    async def __aenter__(self) -> AsyncLiveClient:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncLiveClient is a connection of this event loop and can not be pickled or "
            "copied: make another one where it is needed"
        )

    def __repr__(self) -> str:
        return f"AsyncLiveClient({self.address})"

    @property
    def _connected(self) -> Rules:
        if self._rules is None:
            raise ProtocolError(
                "not connected: use 'async with', or await connect() first", self.address
            )
        return self._rules

    async def _carry_out(self, steps: Steps) -> Any:
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
                answer = await self._do(request)
            except FarsimError as raised:
                error = raised

    async def _do(self, request: Request) -> Any:
        link = self._link
        if link is None:
            raise ProtocolError("not connected", self.address)
        if isinstance(request, Join):
            return await link.session(request.until)
        if isinstance(request, Send):
            return await link.send(
                request.session, request.what, request.event, request.until, request.is_awaited
            )
        if isinstance(request, Post):
            return link.post(request.session, request.what, request.event)
        return await link.wait(request.sent, request.until)


class AsyncEpisode(BaseEpisode):
    """``Episode`` with coroutines; made by ``AsyncLiveClient.episode``, used by one task at a time.

    ``reward`` waits for nothing and is a plain method here too.
    """

    def __init__(self, rules: Rules, client: AsyncLiveClient) -> None:
        super().__init__(rules)
        self._client = client

    async def observe(
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
        """As ``Episode.observe``."""
        return await self._client._carry_out(
            self._observe(
                observation, reward, action_mask, action_taken, rewards, terminateds, truncateds
            )
        )

    async def log_action(
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
        """As ``Episode.log_action``."""
        await self._client._carry_out(
            self._log(observation, action, reward, action_mask, rewards, terminateds, truncateds)
        )

    async def end(
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
        """As ``Episode.end``."""
        await self._client._carry_out(
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

    async def abort(self) -> None:
        """As ``Episode.abort``."""
        if not self.is_over:
            await self._client._carry_out(self._play.abort())

    async def __aenter__(self) -> AsyncEpisode:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_over:
            return
        if kind is None:
            await self.end()
        else:
            await self.abort()


async def _describe(address: str, options: ConnectionOptions) -> Interface:
    async with open_aio_channel(address, options) as channel:
        try:
            reply = await policy_pb2_grpc.PolicyStub(channel).Describe(
                pb.DescribePoliciesRequest(),
                timeout=options.connect_seconds,
                metadata=call_metadata(options),
            )
        except grpc.RpcError as error:
            raise translate(error, address) from None
    return described(reply, address)
