"""Whether batches have the form that they should, on a walk with allowed actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from farsim import spaces, tensors
from farsim.check.batches import Part, View
from farsim.check.play import Play, step_of
from farsim.check.stream import told
from farsim.check.subject import Subject, Walk
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.errors import FarsimError, InvalidTensor
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

CHAPTER = Chapter()
_SENT = "'reset' and steps with allowed actions"


def each(walk: Walk) -> Iterator[tuple[str, int, View, Part]]:
    """Every group's side of every batch of a walk, with what it answers."""
    for number, view in enumerate(walk.views):
        for part in view.parts:
            where = f"step {number}" if number else "'reset'"
            yield f"{where}, group '{part.group.message.name}'", number, view, part


@CHAPTER.check(
    "batch",
    "for allowed actions",
    "Advances environments by one action of each agent that is to act there",
)
def _for_allowed_actions(subject: Subject) -> None:
    walk = subject.walk()
    if walk.error is not None:
        masks = " (and that the masks allow)" if _masked(subject) else ""
        raise Broken(
            f"step {len(walk.views)} with actions inside the space{masks}",
            "'batch'",
            told(walk.error),
        )


@CHAPTER.check("batch", "groups", "One for each of `Opened.groups`, in that order.")
def _groups(subject: Subject) -> None:
    play = subject.open()
    reply = play.ask(reset=pb.Reset())
    if len(reply.batch.groups) != len(play.groups):
        raise Broken("'reset'", f"{len(play.groups)} groups", f"{len(reply.batch.groups)}")


@CHAPTER.check(
    "batch",
    "rows",
    "strictly increasing, each less than the number of rows the sender and receiver agree on.",
)
def _rows(subject: Subject) -> None:
    for where, _, view, part in each(subject.walk()):
        bound = subject.envs * part.group.agents
        lists = {
            "rows": (part.message.rows, bound),
            "acting": (part.message.acting, bound),
            "final_rows": (part.message.final_rows, bound),
            "started": (view.message.started, subject.envs),
        }
        for name, (message, most) in lists.items():
            index = list(message.index)
            if index != sorted(set(index)) or (index and index[-1] >= most):
                raise Broken(_SENT, f"increasing {name} below {most}", f"{index} ({where})")


def _decoded(part: Part, value: tensor_pb2.Value, count: int, where: str) -> Any:
    try:
        return spaces.decode(part.group.observation_space, value.tensors, count)
    except FarsimError as error:
        raise Broken(_SENT, f"tensors for {count} rows of the space", f"{error} ({where})") from (
            error
        )


@CHAPTER.check("batch", "observations", "Every tensor below has one row for each.")
def _observations(subject: Subject) -> None:
    for where, _, _, part in each(subject.walk()):
        _decoded(part, part.message.observation, len(part.rows), where)


@CHAPTER.check(
    "batch",
    "observations inside",
    "Sets of values: what an observation, an action or a parameter may be.",
)
def _observations_inside(subject: Subject) -> None:
    for where, _, _, part in each(subject.walk()):
        space = part.group.observation_space
        try:
            values = spaces.decode(space, part.message.observation.tensors, len(part.rows))
        except FarsimError as error:
            raise NotExercised("observations can not be read") from error
        try:
            spaces.check(space, values, len(part.rows), InvalidTensor, "observation")
        except FarsimError as error:
            raise Broken(_SENT, "observations inside their space", f"{error} ({where})") from error


def _column(subject: Subject, name: str, dtype: tensor_pb2.DType) -> None:
    for where, number, _, part in each(subject.walk()):
        if not number:
            continue
        tensor = getattr(part.message, name)
        expected = tensors.describe(tensors.dtype_of(dtype), [len(part.rows)])
        try:
            array = tensors.unpack(tensor)
        except FarsimError as error:
            raise Broken(_SENT, f"{name} {expected}", f"{error} ({where})") from error
        if tensor.dtype != dtype or array.shape != (len(part.rows),):
            found = tensors.describe(array.dtype, array.shape)
            raise Broken(_SENT, f"{name} {expected}", f"{found} ({where})")


@CHAPTER.check("batch", "rewards", "Tensor reward = 3; // float64")
def _rewards(subject: Subject) -> None:
    _column(subject, "reward", tensor_pb2.DTYPE_FLOAT64)


@CHAPTER.check("batch", "terminated", "Tensor terminated = 4; // bool: the world reached an end")
def _terminated(subject: Subject) -> None:
    _column(subject, "terminated", tensor_pb2.DTYPE_BOOL)


@CHAPTER.check(
    "batch",
    "truncated",
    "Tensor truncated = 5; // bool: stopped from outside, a time limit for instance",
)
def _truncated(subject: Subject) -> None:
    _column(subject, "truncated", tensor_pb2.DTYPE_BOOL)


@CHAPTER.check("batch", "infos", "First dimension: one for each row named.")
def _infos(subject: Subject) -> None:
    seen = False
    for where, _, _, part in each(subject.walk()):
        final = len(part.message.final_rows.index)
        for info, count in [
            *((info, len(part.rows)) for info in part.message.infos),
            *((info, final) for info in part.message.final_infos),
        ]:
            seen = True
            named = list(info.rows.index) if info.HasField("rows") else list(range(count))
            texts = info.WhichOneof("values") == "texts"
            try:
                found = (
                    len(info.texts.texts) if texts else (*tensors.unpack(info.tensor).shape, -1)[0]
                )
            except FarsimError as error:
                raise Broken(_SENT, f"info '{info.name}'", f"{error} ({where})") from error
            if found != len(named) or (named and max(named) >= count):
                raise Broken(
                    _SENT,
                    f"info '{info.name}' about positions {named}, all below {count}",
                    f"{found} values ({where})",
                )
    if not seen:
        raise NotExercised("no infos came")


@CHAPTER.check(
    "batch", "episode's length", "After how many steps an episode is truncated at the latest"
)
def _episode_length(subject: Subject) -> None:
    walk = subject.walk()
    bound = walk.play.opened.max_episode_steps
    if not bound:
        raise NotOffered("max_episode_steps is 0")
    length = dict.fromkeys(range(subject.envs), 0)
    for over, view in zip(walk.over, walk.views, strict=True):
        for env in view.envs:
            started = env in view.started
            length[env] = 0 if started or env in over else length[env] + 1
            if length[env] > bound:
                raise Broken(_SENT, f"episodes of at most {bound} steps", f"one of {length[env]}")


@CHAPTER.check(
    "batch",
    "faults",
    "row with the observation from before, reward 0 and truncated; nothing in that row is an "
    "observed transition.",
)
def _faults(subject: Subject) -> None:
    walk = subject.walk()
    if walk.play.opened.autoreset_mode == pb.AUTORESET_MODE_SAME_STEP or not any(
        view.faults for view in walk.views[1:]
    ):
        raise NotExercised("no environment failed")
    for where, number, view, part in each(walk):
        if not set(view.faults) <= set(view.envs):
            raise Broken(_SENT, f"faults of environments {view.envs}", f"{view.faults} ({where})")
        if not number:
            continue
        reward = tensors.unpack(part.message.reward)
        flag = tensors.unpack(part.message.truncated)
        for at, row in enumerate(part.rows):
            if row // part.group.agents in view.faults and (reward[at] != 0 or not flag[at]):
                raise Broken(
                    _SENT,
                    "reward 0 and truncated in the rows of a failed environment",
                    f"reward {reward[at]}, truncated {bool(flag[at])} in row {row} ({where})",
                )


def _masked(subject: Subject) -> bool:
    return any(group.has_action_mask for group in subject.simulator.groups)


def _every_mask(
    subject: Subject, look: Callable[[str, Part, list[np.ndarray[Any, Any]]], None]
) -> None:
    if not _masked(subject):
        raise NotOffered("has_action_mask is false")
    for where, _, _, part in each(subject.walk()):
        if part.group.message.has_action_mask:
            try:
                masks = [tensors.unpack(mask) for mask in part.message.action_masks]
            except FarsimError as error:
                raise Broken(_SENT, "action masks", f"{error} ({where})") from error
            look(where, part, masks)


@CHAPTER.check(
    "masks",
    "form",
    "for each Discrete leaf of the action space a bool tensor [rows, n], for each MultiDiscrete "
    "leaf one [rows, sum of n]; true means that the action is allowed now.",
)
def _mask_form(subject: Subject) -> None:
    def look(where: str, part: Part, masks: list[np.ndarray[Any, Any]]) -> None:
        widths = spaces.mask_widths(part.group.action_space)
        expected = [f"bool [{len(part.rows)}, {width}]" for width in widths]
        found = [tensors.describe(mask.dtype, mask.shape) for mask in masks]
        if found != expected:
            raise Broken(_SENT, f"masks {expected}", f"{found} ({where})")

    _every_mask(subject, look)


@CHAPTER.check(
    "masks",
    "something is allowed",
    "At least one is allowed in every row whose episode goes on.",
)
def _something_is_allowed(subject: Subject) -> None:
    def look(where: str, part: Part, masks: list[np.ndarray[Any, Any]]) -> None:
        going = [at for at, row in enumerate(part.rows) if row in part.going]
        for mask in masks:
            none = [part.rows[at] for at in going if not mask[at].any()]
            if none:
                raise Broken(_SENT, "something allowed in every row", f"{none}: none ({where})")

    _every_mask(subject, look)


_SUBSET = "Rows environments = 1; // As in the request."


@CHAPTER.check("subsets", "are answered as asked", _SUBSET)
def _subsets(subject: Subject) -> None:
    subject.several()
    play = subject.open()
    play.reset()
    requests: dict[str, Any] = {
        "step": step_of(play.draw([1]), [1]),
        "reset": pb.Reset(environments=tensor_pb2.Rows(index=[1])),
    }
    for what, request in requests.items():
        message = play.ask(**{what: request}).batch
        if list(message.environments.index) != [1]:
            came = f"{list(message.environments.index)}"
            raise Broken(f"'{what}' of environment 1 alone", "a batch about [1]", came)


@CHAPTER.check("subsets", "leave others alone", "Rows environments = 1; // Absent: all.")
def _subsets_leave_others_alone(subject: Subject) -> None:
    subject.several()

    def alone(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        return play.step(play.draw([1]), [1]).figure()

    def after_the_other(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        actions = play.draw([1])
        play.act([0])
        return play.step(actions, [1]).figure()

    one, other = subject.alike(alone, after_the_other)
    if one != other:
        raise Broken(
            "steps of environment 1, once with a step of environment 0 before",
            "the same replies about environment 1",
            "different ones",
        )


@CHAPTER.check("subsets", "wrong ones", "Anything else in a request: rows, counts, seeds.")
def _wrong_subsets(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    wrong = [[play.count], [0, 0]] + ([[1, 0]] if play.count > 1 else [])
    for envs in wrong:
        play.refused(
            [pb.ERROR_CODE_INVALID_ARGUMENT],
            f"'reset' of environments {envs} of {play.count}",
            reset=pb.Reset(environments=tensor_pb2.Rows(index=envs)),
        )
