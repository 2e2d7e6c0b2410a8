"""Actions that are wrong, and that nothing happens then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from farsim.check import samples
from farsim.check.play import Play, Tensors, step_of
from farsim.check.subject import Subject
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_WRONG = "Wrong dtype or shape, or outside the action space."
# A tensor of a dtype that the space has not is wrong as an action and as a tensor of that space;
# either code tells the client what it needs.
_EITHER = (pb.ERROR_CODE_INVALID_ACTION, pb.ERROR_CODE_INVALID_TENSOR)

Spoil = Callable[[Play], Sequence[Tensors]]


def _spoiled(change: Callable[[Tensors], Tensors]) -> Spoil:
    def spoil(play: Play) -> Sequence[Tensors]:
        group, _ = play.somebody()
        actions = play.draw()
        actions[group] = change(actions[group])
        return actions

    return spoil


def _outside(play: Play) -> Sequence[Tensors]:
    actions = play.draw()
    for number, group in enumerate(play.groups):
        for row in sorted(play.acting[number]):
            wrong = samples.outside(group.action_space, actions[number], row)
            if wrong is not None:
                actions[number] = wrong
                return actions
    raise NotOffered("no action space that a value could be outside of")


#: What can be wrong with the actions for all agents of all environments.
SPOILED: dict[str, tuple[Spoil, tuple[int, ...]]] = {
    "of another dtype": (_spoiled(samples.of_another_dtype), _EITHER),
    "of another shape": (_spoiled(samples.of_another_shape), _EITHER),
    "outside the space": (_outside, (pb.ERROR_CODE_INVALID_ACTION,)),
    "with a tensor too many": (_spoiled(lambda tensors: [*tensors, tensors[0]]), _EITHER),
    "without tensors": (_spoiled(lambda tensors: []), _EITHER),
    "with a byte missing": (
        _spoiled(samples.of_missing_bytes),
        (pb.ERROR_CODE_INVALID_TENSOR,),
    ),
    "for a group too many": (
        lambda play: [*play.draw(), []],
        (*_EITHER, pb.ERROR_CODE_INVALID_ARGUMENT),
    ),
}


def _refuses(subject: Subject, how: str) -> None:
    spoil, codes = SPOILED[how]
    play = subject.open()
    play.reset()
    play.refused(codes, f"'step' with actions {how}", step=step_of(spoil(play)))


@CHAPTER.check("actions", "of another dtype", _WRONG)
def _of_another_dtype(subject: Subject) -> None:
    _refuses(subject, "of another dtype")


@CHAPTER.check("actions", "of another shape", _WRONG)
def _of_another_shape(subject: Subject) -> None:
    _refuses(subject, "of another shape")


@CHAPTER.check("actions", "outside the space", _WRONG)
def _outside_the_space(subject: Subject) -> None:
    _refuses(subject, "outside the space")


@CHAPTER.check(
    "actions",
    "of too many or no tensors",
    "So the number of tensors depends on the space alone, never on the values.",
)
def _of_too_many_or_no_tensors(subject: Subject) -> None:
    _refuses(subject, "with a tensor too many")
    _refuses(subject, "without tensors")


@CHAPTER.check("actions", "with a byte missing", "Bytes, dtype and shape that do not agree.")
def _with_a_byte_missing(subject: Subject) -> None:
    _refuses(subject, "with a byte missing")


@CHAPTER.check("actions", "for a group too many", "One for each of `Opened.groups`, in that order.")
def _for_a_group_too_many(subject: Subject) -> None:
    _refuses(subject, "for a group too many")


@CHAPTER.check(
    "actions",
    "nothing has happened",
    "A request that cannot be carried out gets an `error` reply; nothing has then happened to "
    "any environment",
)
def _nothing_has_happened(subject: Subject) -> None:
    if not _differs(subject, list(SPOILED)):
        return
    for how in SPOILED:
        if _differs(subject, [how]):
            break
    raise Broken(
        f"a 'step' with actions {how}, which is refused, then two others",
        "the replies that come without the refused one",
        "other ones",
    )


def _differs(subject: Subject, hows: list[str]) -> bool:
    """Whether episodes go on otherwise after these wrong actions, all of them refused."""

    def undisturbed(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        actions = play.draw()
        return [play.step(actions).figure(), play.step(actions).figure()]

    def disturbed(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        actions = play.draw()
        for how in hows:
            with suppress(NotOffered):
                wrong = step_of(SPOILED[how][0](play))
                if not play.ask(step=wrong).HasField("error"):
                    raise NotExercised(f"actions {how} are carried out")
        return [play.step(actions).figure(), play.step(actions).figure()]

    try:
        one, other = subject.alike(undisturbed, disturbed)
    finally:
        subject.end()
    return bool(one != other)
