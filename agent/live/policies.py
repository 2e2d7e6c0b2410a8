"""The policies that are served: who they act for, and what clients may send them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium import spaces as gym_spaces
from numpy.typing import NDArray

from agent.live.inference import Inference, Masks, PolicySpec
from farsim import spaces, tensors
from farsim.errors import (
    FarsimError,
    InvalidAction,
    InvalidArgument,
    InvalidObservation,
    InvalidTensor,
    SpaceMismatch,
    UnknownPolicy,
)
from farsim.options import nearest
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, tensor_pb2

#: What the only agent is called.
SINGLE_AGENT = "agent"


class Policy:
    """One policy's side of the wire: reads observations and actions, writes actions.

    Args:
        spec: what is known of it.

    Raises:
        Unsupported: a space that can not travel.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._observation_space = spaces.to_proto(spec.observation_space)
        self._action_space = spaces.to_proto(spec.action_space)
        self._segments = _segments(spec.action_space) if spec.has_action_mask else []
        self._full_masks = tuple(
            mask[0] for mask in spaces.full_masks(spec.action_space, 1) if spec.has_action_mask
        )
        # A flag is one of one value or one of two: so it becomes part of the spaces' digest.
        masked: Space[Any] = gym_spaces.Discrete(1 + spec.has_action_mask)
        self.digest = spaces.digest(spec.observation_space, spec.action_space, masked)

    def describe(self, versions: Sequence[int], checkpoint: str) -> pb.PolicyDescription:
        spec = self.spec
        return pb.PolicyDescription(
            name=spec.name,
            observation_space=self._observation_space,
            action_space=self._action_space,
            has_action_mask=spec.has_action_mask,
            is_recurrent=spec.is_recurrent,
            digest=self.digest,
            versions=versions,
            checkpoint=checkpoint,
            agents=spec.agents,
        )

    def observations(self, value: tensor_pb2.Value, rows: int, subject: str) -> list[Any]:
        """The single observations in a batch.

        Raises:
            InvalidTensor: bytes, dtype and shape of a tensor do not agree.
            InvalidObservation: they are no observations of this policy.
        """
        return _read(self.spec.observation_space, value, rows, InvalidObservation, subject)

    def action(self, value: tensor_pb2.Value, subject: str) -> Any:
        """The one action in a batch of one.

        Raises:
            InvalidTensor: bytes, dtype and shape of a tensor do not agree.
            InvalidAction: it is no action of this policy.
        """
        return _read(self.spec.action_space, value, 1, InvalidAction, subject)[0]

    def masks(
        self, sent: Sequence[tensor_pb2.Tensor], rows: int, subject: str, acts: bool = True
    ) -> list[Masks]:
        """The masks of each row; nothing for a policy without masks.

        Args:
            sent: one bool tensor [rows, width] for each masked leaf, or none: all is allowed.
            rows: how many.
            subject: what they are, for errors.
            acts: whether an action follows, which needs something that is allowed.

        Raises:
            InvalidTensor: bytes, dtype and shape of a tensor do not agree.
            InvalidArgument: they do not fit the action space, or allow nothing.
        """
        if not sent:
            return [self._full_masks] * rows
        widths = [width for width, _ in self._segments]
        if not self.spec.has_action_mask:
            raise InvalidArgument(
                f"policy '{self.name}' knows no action masks and might choose what they forbid",
                subject,
            )
        if len(sent) != len(widths):
            raise InvalidArgument(
                f"policy '{self.name}' takes {len(widths)} masks, not {len(sent)}: one for each "
                "Discrete and MultiDiscrete space in its action space",
                subject,
            )
        arrays = [_unpacked(message, subject) for message in sent]
        for array, (width, starts) in zip(arrays, self._segments, strict=True):
            if array.dtype != np.bool_ or array.shape != (rows, width):
                raise InvalidArgument(
                    f"expected a mask {tensors.describe(np.dtype(np.bool_), (rows, width))}, "
                    f"found {tensors.describe(array.dtype, array.shape)}",
                    subject,
                )
            if acts and not np.logical_or.reduceat(array, starts, axis=1).all():
                raise InvalidArgument("a mask allows nothing; allow at least one action", subject)
        return [tuple(array[row] for array in arrays) for row in range(rows)]

    def write_actions(self, actions: Sequence[Any]) -> tensor_pb2.Value:
        """The batch of these actions."""
        space = self.spec.action_space
        batched = spaces.batch(space, actions)
        return tensor_pb2.Value(tensors=spaces.encode(space, batched, len(actions)))

    def same_action(self, one: Any, other: Any) -> bool:
        """Whether two actions are the same to the simulator."""
        return self.write_actions([one]) == self.write_actions([other])

    def check_group(self, group: simulator_pb2.Group) -> None:
        """Raises SpaceMismatch if the simulator's spaces are others; says where."""
        found = []
        for name, here, there in (
            ("observation_space", self.spec.observation_space, group.observation_space),
            ("action_space", self.spec.action_space, group.action_space),
        ):
            try:
                differences = spaces.differences(here, spaces.from_proto(there))
            except FarsimError as error:
                subject = f"groups['{group.name}'].{name}"
                raise type(error)(f"{subject}: {error.message}", subject) from error
            found += [f"{name} {difference}" for difference in differences]
        if group.has_action_mask != self.spec.has_action_mask:
            with_or_without = ("without", "with")
            found.append(
                f"{with_or_without[self.spec.has_action_mask]} action masks here, "
                f"{with_or_without[group.has_action_mask]} there"
            )
        if found:
            raise SpaceMismatch(
                f"policy '{self.name}' is for other spaces than group '{group.name}' "
                f"({', '.join(group.agents)}) has (here: the policy, there: the simulator): "
                + "; ".join(found[:5])
                + (f"; and {len(found) - 5} more" if len(found) > 5 else ""),
                f"groups['{group.name}']",
            )


class Policies:
    """All policies of a server, by name and by agent.

    Args:
        inference: whose they are.

    Raises:
        InvalidArgument: two of the same name or for the same agent, or none at all.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._by_name: dict[str, Policy] = {}
        self._by_agent: dict[str, Policy] = {}
        for spec in inference.policies():
            policy = Policy(spec)
            if self._by_name.setdefault(spec.name, policy) is not policy:
                raise InvalidArgument(f"two policies are called '{spec.name}'", spec.name)
            for agent in spec.agents:
                if self._by_agent.setdefault(agent, policy) is not policy:
                    raise InvalidArgument(f"two policies act for agent '{agent}'", agent)
        if not self._by_name:
            raise InvalidArgument("there is no policy to serve")
        self._for_others = [policy for policy in self if not policy.spec.agents]

    def __iter__(self) -> Any:
        return iter(self._by_name.values())

    @property
    def is_multi_agent(self) -> bool:
        """Whether agents other than the one called "agent" are known."""
        return bool(self._for_others) or set(self._by_agent) != {SINGLE_AGENT}

    def named(self, name: str) -> Policy:
        """The policy of that name; the only one if it is empty.

        Raises:
            UnknownPolicy: there is none.
        """
        if not name and len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        policy = self._by_name.get(name)
        if policy is None:
            what = f"no policy '{name}' here" if name else "name the policy to ask"
            raise UnknownPolicy(f"{what}{nearest(name, self._by_name)}", "policy")
        return policy

    def of_agent(self, agent: str) -> Policy:
        """The policy that acts for an agent.

        Raises:
            UnknownPolicy: none does, or which one is not said.
        """
        policy = self._by_agent.get(agent)
        if policy is not None:
            return policy
        if len(self._for_others) == 1:
            return self._for_others[0]
        if self._for_others:
            names = ", ".join(f"'{policy.name}'" for policy in self._for_others)
            raise UnknownPolicy(
                f"agent '{agent}' is named by no policy, and several act for any agent: {names}. "
                "The server has to say which agents each of them acts for",
                "agent",
            )
        known = ", ".join(f"'{name}'" for name in self._by_agent)
        raise UnknownPolicy(
            f"no policy here acts for agent '{agent}'; those known are {known}", "agent"
        )

    def check_version(self, version: int, policies: Iterable[Policy]) -> None:
        """Raises UnknownPolicy unless each of ``policies`` can be asked for ``version``."""
        for policy in policies:
            kept = self._inference.versions(policy.name)
            if version and version not in kept:
                raise UnknownPolicy(
                    f"version {version} of policy '{policy.name}' is not served; ask for 0 (the "
                    f"last one) or one of {', '.join(map(str, kept))}",
                    "policy_version",
                )

    @property
    def last_version(self) -> int:
        """The highest of all current versions."""
        return max(self._inference.versions(policy.name)[-1] for policy in self)

    def describe(self) -> list[pb.PolicyDescription]:
        checkpoints = {spec.name: spec.checkpoint for spec in self._inference.policies()}
        return [
            policy.describe(self._inference.versions(policy.name), checkpoints[policy.name])
            for policy in self
        ]


def _read(
    space: Space[Any],
    value: tensor_pb2.Value,
    rows: int,
    error: type[FarsimError],
    subject: str,
) -> list[Any]:
    try:
        batched = spaces.decode(space, value.tensors, rows)
    except InvalidTensor as wrong:
        for message in value.tensors:
            _unpacked(message, subject)
        # Each tensor is sound in itself, so it is not what the space asks for.
        raise error(f"{subject}: {wrong.message}", subject) from wrong
    spaces.check(space, batched, rows, error, subject)
    return spaces.unbatch(space, batched, rows)


def _unpacked(message: tensor_pb2.Tensor, subject: str) -> NDArray[Any]:
    try:
        return tensors.unpack(message)
    except InvalidTensor as error:
        raise InvalidTensor(f"{subject}: {error.message}", subject) from error


def _segments(space: Space[Any]) -> list[tuple[int, list[int]]]:
    """Of each mask its width, and where in it the flags of each single choice begin."""
    segments = []
    for _, leaf in spaces.leaves(space):
        if isinstance(leaf, gym_spaces.Discrete):
            segments.append((int(leaf.n), [0]))
        elif isinstance(leaf, gym_spaces.MultiDiscrete):
            sizes = leaf.nvec.reshape(-1).astype(np.int64)
            segments.append((int(sizes.sum()), [0, *np.cumsum(sizes)[:-1].tolist()]))
    return segments
