"""Worlds of a dm_env_rpc server: github.com/google-deepmind/dm_env_rpc, protocol version 1."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import grpc
import gymnasium as gym
import numpy as np
from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc, message_utils, tensor_spec_utils, tensor_utils
from dm_env_rpc.v1.error import DmEnvRpcError
from dm_env_rpc.v1.spec_manager import SpecManager
from gymnasium.spaces import Box, Discrete, MultiBinary

from farsim.errors import InvalidOption, SimulatorFault, Unsupported
from simserver.adapters import settings
from simserver.adapters.remote_worlds import Sight, World

logger = logging.getLogger(__name__)

#: What the protocol's documentation calls them.
_REWARD, _DISCOUNT = "reward", "discount"
#: Seconds to wait for a connection and for the answers that only make one ready. Servers with a
#: fixed number of threads leave one more connection without an answer instead of refusing it.
_READY_SECONDS = 30.0
#: More values than this are a Box of whole numbers, not a Discrete.
_MOST_CHOICES = 1 << 16
#: Bounds the steps from a reset to a running sequence; one, or two after a world's reset.
_STEPS_TO_START = 4
_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

PARAMETERS = (
    settings.parameter(
        "world", "", "name of a world to join; empty: one made for each environment"
    ),
    settings.parameter("create", "", "settings to create worlds with: name=value; name=value"),
    settings.parameter("join", "", "settings to join worlds with: name=value; name=value"),
    settings.parameter(
        "seeding",
        "auto",
        "what takes seeds, as the setting 'seed'; auto: reset_world if the server lets it",
        ("auto", "reset_world", "create_world", "none"),
    ),
    settings.parameter(
        "ranges", "", "bounds of actions and observations that say none: name=low:high; ..."
    ),
)


class DmEnvRpcWorld(World):
    """One connection that has joined one world.

    An observation is the server's tensor if there is just one besides reward and discount,
    otherwise a ``Dict`` by name; the same for actions. Bounded whole numbers are ``Discrete``.
    Texts that are observed, and the discount, are infos. Observations of a variable length and
    protocol messages are left out.

    An episode is terminated where the state is TERMINATED, and truncated where it is INTERRUPTED
    or where a discount above 0 says that the world would have gone on.

    Args:
        address: host:port.
        secure: whether it wants TLS; the system's certificates are trusted.
        world, create, join, seeding, ranges: see ``PARAMETERS``.

    Raises:
        SimulatorFault: the server can not be reached or refuses.
        Unsupported: it has an action that no space describes.
    """

    def __init__(
        self,
        address: str,
        secure: bool,
        *,
        world: str,
        create: str,
        join: str,
        seeding: str,
        ranges: str,
    ) -> None:
        self._address = address
        self._create = _tensors(settings.parse("create", create))
        self._join = _tensors(settings.parse("join", join))
        self._seeding = "none" if world and seeding == "auto" else seeding
        if world and seeding == "create_world":
            raise InvalidOption("seeding=create_world needs a world of one's own: leave out world")
        self._given_world = world
        self._requests: queue.SimpleQueue[rpc.EnvironmentRequest | None] = queue.SimpleQueue()
        self._channel = (
            grpc.secure_channel(address, grpc.ssl_channel_credentials(), _UNBOUNDED)
            if secure
            else grpc.insecure_channel(address, _UNBOUNDED)
        )
        self._replies: Any = None
        try:
            stub = dm_env_rpc_pb2_grpc.EnvironmentStub(self._channel)
            self._replies = stub.Process(iter(self._requests.get, None))
            with self._soon():
                self._name, specs = self._enter({})
            self._read(specs, settings.ranges("ranges", ranges))
        except BaseException:
            self._hang_up()
            raise

    # -- the interface ---------------------------------------------------------------------

    def reset(self, seed: int | None) -> Sight:
        with self._soon():
            if seed is not None:
                self._seed(seed)
            self._send(rpc.ResetRequest())
        for _ in range(_STEPS_TO_START):
            reply = self._step({})
            if reply.state == rpc.RUNNING:
                return self._sight(reply)
        raise SimulatorFault("the world does not start to run after a reset")

    def step(self, action: Any) -> Sight:
        values = {self._only_action: action} if self._only_action else action
        return self._sight(self._step(values))

    def close(self) -> None:
        """Leaves the world, and destroys it if it was made for this environment."""
        if self._replies is not None and self._replies.is_active():
            # Whatever it answers, it is left.
            with suppress(DmEnvRpcError, grpc.RpcError, SimulatorFault, ValueError), self._soon():
                self._exit()
        self._hang_up()

    # -- the protocol ----------------------------------------------------------------------

    def _enter(self, extra: Mapping[str, rpc.Tensor]) -> tuple[str, rpc.ActionObservationSpecs]:
        name = self._given_world
        if not name:
            created = self._send(rpc.CreateWorldRequest(settings={**self._create, **extra}))
            name = created.world_name
        joined = self._send(rpc.JoinWorldRequest(world_name=name, settings=self._join))
        return name, joined.specs

    def _exit(self) -> None:
        self._send(rpc.LeaveWorldRequest())
        if not self._given_world:
            self._send(rpc.DestroyWorldRequest(world_name=self._name))

    def _seed(self, seed: int) -> None:
        packed = {"seed": tensor_utils.pack_tensor(seed, np.int64)}
        if self._seeding == "create_world":
            self._exit()
            self._name, _ = self._enter(packed)
        elif self._seeding != "none":
            try:
                self._send(rpc.ResetWorldRequest(world_name=self._name, settings=packed))
            except DmEnvRpcError as error:
                if self._seeding != "auto":
                    raise
                self._seeding = "none"
                _tell_once(
                    f"{self._address} takes no seed in ResetWorldRequest: its episodes can not be "
                    f"repeated; see the option 'seeding' ({error})"
                )

    def _step(self, values: Mapping[str, Any]) -> rpc.StepResponse:
        packed = self._actions.pack(values)
        request = rpc.StepRequest(actions=packed, requested_observations=self._wanted)
        reply: rpc.StepResponse = self._send(request)
        return reply

    def _send(self, request: Any) -> Any:
        message, field = message_utils.pack_environment_request(request)
        self._requests.put(message)
        try:
            reply = next(self._replies)
        except StopIteration:
            raise SimulatorFault(f"{self._address} has ended the connection") from None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                text = f"no answer within {_READY_SECONDS:g} s; it may take no more connections"
            else:
                text = f"{error.code().name}: {error.details()}"
            raise SimulatorFault(f"{self._address}: {text}", self._address) from error
        return message_utils.unpack_environment_response(reply, field)

    @contextmanager
    def _soon(self) -> Iterator[None]:
        """Ends the connection if what is inside takes too long."""
        timer = threading.Timer(_READY_SECONDS, self._replies.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        self._requests.put(None)
        self._channel.close()

    # -- spaces and values -----------------------------------------------------------------

    def _read(
        self, specs: rpc.ActionObservationSpecs, ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self._actions, self._observations = (
            SpecManager(specs.actions),
            SpecManager(specs.observations),
        )
        names = {spec.name for spec in (*specs.actions.values(), *specs.observations.values())}
        for name in ranges:
            if name not in names:
                raise InvalidOption(
                    f"option 'ranges': no action or observation '{name}'; known: "
                    f"{', '.join(sorted(names))}",
                    "ranges",
                )
        actions, seen, told = {}, {}, []
        for _, spec in sorted(specs.actions.items()):
            space = _space(spec, ranges.get(spec.name))
            if space is None:
                raise Unsupported(
                    f"action '{spec.name}' has a variable length or holds messages or an array of "
                    "texts, which no space describes",
                    spec.name,
                )
            actions[spec.name] = space
        for _, spec in sorted(specs.observations.items()):
            if spec.name in (_REWARD, _DISCOUNT):
                continue
            space = _space(spec, ranges.get(spec.name))
            if space is None:
                _tell_once(f"observation '{spec.name}' is left out: no space describes it")
            elif spec.dtype == rpc.STRING:
                told.append(spec.name)
            else:
                seen[spec.name] = space
        if not actions or not seen:
            raise Unsupported(f"the world at {self._address} has no actions or no observations")
        self._only_action = next(iter(actions)) if len(actions) == 1 else ""
        self._only_observation = next(iter(seen)) if len(seen) == 1 else ""
        self.action_space = _alone_or_together(actions)
        self.observation_space = _alone_or_together(seen)
        self._seen = seen
        extra = {_REWARD, _DISCOUNT} & set(self._observations.names())
        self._told = told + [_DISCOUNT] * (_DISCOUNT in extra)
        self._wanted = sorted(map(self._observations.name_to_uid, {*seen, *told, *extra}))

    def _sight(self, reply: rpc.StepResponse) -> Sight:
        values = self._observations.unpack(reply.observations)
        missing = [name for name in self._seen if name not in values]
        if missing:
            raise SimulatorFault(f"the server left out the observation '{missing[0]}'", missing[0])
        members = {name: _member(space, values[name]) for name, space in self._seen.items()}
        discount = values.get(_DISCOUNT)
        ended = reply.state != rpc.RUNNING
        truncated = reply.state == rpc.INTERRUPTED or (
            discount is not None and float(np.asarray(discount).sum()) > 0
        )
        return Sight(
            members[self._only_observation] if self._only_observation else members,
            float(np.asarray(values.get(_REWARD, 0.0)).sum()),
            terminated=ended and not truncated,
            truncated=ended and truncated,
            info={name: _plain(values[name]) for name in self._told if name in values},
        )


@cache
def _tell_once(message: str) -> None:
    logger.warning(message)


def _tensors(values: Mapping[str, Any]) -> dict[str, rpc.Tensor]:
    return {name: tensor_utils.pack_tensor(value) for name, value in values.items()}


def _alone_or_together(members: dict[str, gym.Space[Any]]) -> gym.Space[Any]:
    if len(members) == 1:
        return next(iter(members.values()))
    return gym.spaces.Dict(members)


def _space(spec: rpc.TensorSpec, bounds: tuple[float, float] | None) -> gym.Space[Any] | None:
    """The space of a tensor; None if there is none for it."""
    shape = tuple(spec.shape)
    if spec.dtype == rpc.PROTO or any(size < 0 for size in shape):
        return None
    if spec.dtype == rpc.STRING:
        return settings.PRINTABLE if shape == () else None
    if spec.dtype == rpc.BOOL:
        return MultiBinary(shape) if shape else Discrete(2)
    dtype = tensor_utils.data_type_to_np_type(spec.dtype)
    inclusive = tensor_spec_utils.bounds(spec)
    whole = dtype.kind in "iu"
    low = inclusive.min if whole or spec.HasField("min") else -np.inf
    high = inclusive.max if whole or spec.HasField("max") else np.inf
    if whole and shape == () and int(high) - int(low) < _MOST_CHOICES and spec.HasField("max"):
        space: gym.Space[Any] = Discrete(int(high) - int(low) + 1, start=int(low))
    else:
        space = Box(
            np.broadcast_to(np.asarray(low, dtype), shape).copy(),
            np.broadcast_to(np.asarray(high, dtype), shape).copy(),
            shape,
            dtype.type,
        )
    return space if bounds is None else settings.bounded(space, bounds, "ranges", spec.name)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _member(space: gym.Space[Any], value: Any) -> Any:
    """An unpacked tensor as a member of its space has it."""
    if isinstance(space, Discrete):
        return np.int64(value)
    return np.asarray(value, space.dtype)
