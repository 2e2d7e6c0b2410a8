"""The interface that every simulator is lifted to: a batch of environments, stepped in one call."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from gymnasium import Space
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: A batch of values of one space, laid out as Gymnasium's vector environments lay it out: an
#: array with a leading batch dimension, a dict or tuple of such, or a tuple of single values for
#: Text, Sequence, Graph and OneOf.
BatchedValue = Any


@dataclass(frozen=True)
class Parameter:
    """Something that a client may choose, when it opens a session or for each episode.

    Attributes:
        name: what the client calls it.
        space: the values allowed, any Gymnasium space.
        default: a value of ``space``.
        description: one line for people.
        unit: of the value, in UCUM or plain words; empty if it has none.
        choices: for a ``Text`` space, the only values allowed; empty for any.
        per_episode: whether a reset may give another value, for the episodes that start there
            and the later ones of the same environments.
    """

    name: str
    space: Space[Any]
    default: Any
    description: str = ""
    unit: str = ""
    choices: tuple[str, ...] = ()
    per_episode: bool = False


@dataclass(frozen=True)
class Group:
    """Agents that share an observation and an action space.

    With E environments and A agents, row ``e * A + a`` of the group's arrays is agent ``a`` of
    environment ``e``; for one agent, row and environment are the same.

    Agents may take turns, end at different times and join late. From its first row in an episode
    until one that is terminated or truncated, an agent's episode goes on, and every batch about
    its environment has a row of it, whether it is to act or not. After that it has none until the
    next episode. An environment's episode is over when no agent's goes on.

    Attributes:
        observation_space: of one agent.
        action_space: of one agent.
        agents: their names, unique over all groups.
        name: the group's.
        has_action_mask: whether every batch carries ``GroupBatch.action_masks``.
    """

    observation_space: Space[Any]
    action_space: Space[Any]
    agents: tuple[str, ...] = ("agent",)
    name: str = "agents"
    has_action_mask: bool = False


@dataclass
class Info:
    """Something more to say about rows, for people, metrics and debugging.

    Attributes:
        values: an array whose first dimension is the rows, or a list of as many strings.
        rows: int64, positions in the group batch's rows; None for all of them.
    """

    values: NDArray[Any] | Sequence[str]
    rows: IntArray | None = None


@dataclass
class GroupBatch:
    """One group's side of a batch; every array has a row for each of ``rows``.

    Attributes:
        observation: batched value of the group's observation space.
        reward: float64 [rows]; None after a reset.
        terminated: bool [rows]; None after a reset.
        truncated: bool [rows]; None after a reset.
        action_masks: for each ``Discrete`` leaf of the action space (depth first) a bool array
            [rows, n], for each ``MultiDiscrete`` leaf one [rows, sum of n]; empty without masks.
        infos: by name; members of nested structures are joined with "/".
        rows: int64, rows of the group, strictly increasing; None for all agents of all
            environments of the batch, in order.
        final_rows: only with ``SAME_STEP``: the rows whose episode ended, int64.
        final_observation: their last observations, batched over ``final_rows``.
        final_infos: their last infos, batched over ``final_rows``.
        acting: int64, strictly increasing, the rows that are to act in the next step of their
            environment, all of them among ``rows`` and none of them ended; None for every row
            here whose episode goes on.
    """

    observation: BatchedValue
    reward: FloatArray | None = None
    terminated: BoolArray | None = None
    truncated: BoolArray | None = None
    action_masks: tuple[BoolArray, ...] = ()
    infos: dict[str, Info] = field(default_factory=dict)
    rows: IntArray | None = None
    final_rows: IntArray | None = None
    final_observation: BatchedValue = None
    final_infos: dict[str, Info] = field(default_factory=dict)
    acting: IntArray | None = None


@dataclass
class Batch:
    """What environments look like after a reset or a step.

    Attributes:
        groups: one for each of ``BatchSimulator.groups``, in that order.
        faults: the exception of each environment that failed, by environment index. Every agent
            whose episode went on there has a row with the observation from before, reward 0 and
            ``truncated``; the environment has been rebuilt, and waits for a reset like any whose
            episode is over.
        started: int64, the environments whose episode started here; None for none.
        episode_options: the per-episode parameters that the started episodes really use, drawn
            ones included: batched values, one row for each of ``started``.
    """

    groups: list[GroupBatch]
    faults: dict[int, Exception] = field(default_factory=dict)
    started: IntArray | None = None
    episode_options: dict[str, BatchedValue] = field(default_factory=dict)


class BatchSimulator(abc.ABC):
    """A fixed number of independent environments of one simulator, stepped together.

    A subclass declares ``parameters`` and takes them as keyword arguments::

        class MySimulator(BatchSimulator):
            parameters = (Parameter("gravity", Box(0, 20, ()), 9.81, unit="m/s2"),)

            def __init__(self, num_envs, *, gravity): ...

    The session above it does all the rest: it checks actions and options against the spaces,
    resets environments whose episode is over as the client's autoreset mode asks, and carries
    batches over the wire. So ``step`` is only ever called for environments in an episode.

    Arrays that a method returns may be reused by its next call; the caller copies what it keeps.
    """

    #: One line for people.
    description: ClassVar[str] = ""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    #: "rgb_array" if ``render`` works.
    render_modes: ClassVar[tuple[str, ...]] = ()
    can_save_state: ClassVar[bool] = False
    #: How many environments one session may have; 0 for no bound.
    max_environments: ClassVar[int] = 0

    #: Set by ``__init__``; parameters may shape them.
    groups: tuple[Group, ...]
    #: After how many steps an episode is truncated at the latest; 0 for no known bound.
    max_episode_steps: int = 0
    #: None when the session does the autoreset. A simulator that resets its environments by
    #: itself names the one mode it keeps to, and is then always stepped and reset as a whole.
    own_autoreset: AutoresetMode | None = None

    @abc.abstractmethod
    def __init__(self, num_envs: int, **options: Any) -> None:
        """Makes ``num_envs`` environments. ``options`` has a valid value for every parameter.

        Raises:
            ValueError: if options that are valid one by one do not go together.
        """

    @abc.abstractmethod
    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        """Starts new episodes.

        Args:
            envs: int64, the environments, strictly increasing.
            seeds: one for each of ``envs``; the same seed with the same options gives the same
                episodes. None goes on with each environment's own random stream; streams of
                different environments are never the same, also before any seed.
            options: values for per-episode parameters, one row for each of ``envs``; they hold
                for these environments until another reset gives others.

        Returns:
            A batch with ``started`` and ``episode_options`` set.
        """

    @abc.abstractmethod
    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        """Advances environments by one action.

        Args:
            envs: int64, the environments, strictly increasing.
            actions: for each group a batched value with one row for every agent of every one of
                ``envs``. Rows of agents that are to act are within the action space; those of
                others mean nothing, and have only its dtype and shape.

        Raises:
            Exception: all of ``envs`` have failed. To fail single ones, return ``Batch.faults``.
        """

    def render(self, envs: IntArray) -> Sequence[NDArray[np.uint8]]:
        """One RGB picture [height, width, 3] for each of ``envs``."""
        raise NotImplementedError

    def save_state(self, envs: IntArray) -> list[bytes]:
        """Everything that decides the future of each of ``envs``, its random stream included."""
        raise NotImplementedError

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        """Puts ``envs`` into saved states, and returns what ``reset`` would, for there.

        Raises:
            ValueError: the bytes are no state of this simulator with these options.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees what the environments hold. Called once."""
