"""Rows, and who is to act: agents that come, go and take turns."""

from __future__ import annotations

from farsim.check import samples
from farsim.check.play import Play, of_rows, step_of
from farsim.check.stream import told
from farsim.check.subject import EPISODE_STEPS, Subject
from farsim.check.suite.batches import each
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_SENT = "'reset' and steps with allowed actions"


@CHAPTER.check("turns", "who is to act is there", "all among `rows`, none of them ended.")
def _who_is_to_act_is_there(subject: Subject) -> None:
    told_of = False
    for where, _, _, part in each(subject.walk()):
        told_of |= part.message.HasField("acting")
        strangers = part.acting - part.going
        if strangers:
            raise Broken(
                _SENT,
                "`acting` among the rows whose episode goes on",
                f"also rows {sorted(strangers)} ({where})",
            )
    if not told_of:
        raise NotOffered("`acting` is never set: everybody acts")


@CHAPTER.check(
    "turns",
    "no rows after the end",
    "After that it has no row until the environment's next episode.",
)
def _no_rows_after_the_end(subject: Subject) -> None:
    gone: dict[int, set[int]] = {}
    for number, view in enumerate(subject.walk().views):
        for place, part in enumerate(view.parts):
            before = gone.setdefault(place, set())
            back = {
                row
                for row in part.rows
                if row in before and row // part.group.agents not in view.started
            }
            if back and not set(view.faults) & {row // part.group.agents for row in back}:
                raise Broken(
                    _SENT,
                    "no row of an agent that has ended, until the next episode",
                    f"rows {sorted(back)} of group '{part.group.message.name}' in step {number}",
                )
            begun = set(part.group.rows(view.started))
            gone[place] = (before - begun) | (part.ended - begun)


def _by_rows(play: Play) -> pb.Step:
    actions, rows = play.draw(), []
    for number, group in enumerate(play.groups):
        acting = sorted(play.acting[number])
        count = play.count * group.agents
        actions[number] = of_rows(group, actions[number], count, acting)
        rows.append(acting)
    return step_of(actions, rows=rows)


@CHAPTER.check("turns", "actions by rows", "Whose actions follow, as rows of the group")
def _actions_by_rows(subject: Subject) -> None:
    def plain(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        return [play.act().figure() for _ in range(6)]

    def by_rows(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        figures = []
        for _ in range(6):
            reply = play.ask(step=_by_rows(play))
            if not reply.HasField("batch"):
                raise Broken("'step' with the rows of who is to act", "'batch'", told(reply))
            figures.append(play.see("step", reply).figure())
        return figures

    one, other = subject.alike(plain, by_rows)
    if one != other:
        raise Broken(
            "the actions of those who are to act, by rows",
            "the replies that come when all agents' actions are sent",
            "different ones",
        )


@CHAPTER.check(
    "turns",
    "an action missing",
    "Every agent that is to act must be among them (else ERROR_CODE_INVALID_ACTION)",
)
def _an_action_missing(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    number, row = play.somebody()
    play.acting[number].discard(row)
    request = _by_rows(play)
    play.refused(
        [pb.ERROR_CODE_INVALID_ACTION],
        f"'step' without the action of row {row} of group {number}, which is to act",
        step=request,
    )


@CHAPTER.check(
    "turns",
    "rows of others",
    "all of environments named in the step (else ERROR_CODE_INVALID_ARGUMENT).",
)
def _rows_of_others(subject: Subject) -> None:
    subject.several()
    play = subject.open()
    play.reset()
    request = _by_rows(play)
    request.environments.index.append(1)
    play.refused(
        [pb.ERROR_CODE_INVALID_ARGUMENT],
        "'step' of environment 1 with rows of all environments",
        step=request,
    )


@CHAPTER.check(
    "turns",
    "ignored actions",
    "they must have the space's dtype and shape, but need not be members of it.",
)
def _ignored_actions(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_NEXT_STEP)
    play = subject.open(autoreset_mode=pb.AUTORESET_MODE_NEXT_STEP)
    play.reset(seeds=subject.seeds())
    for _ in range(EPISODE_STEPS):
        actions, found = play.draw(), False
        for number, group in enumerate(play.groups):
            idle = set(group.rows(play.every(None))) - play.acting[number]
            for row in sorted(idle)[:1]:
                wrong = samples.outside(group.action_space, actions[number], row)
                if wrong is not None:
                    actions[number], found = wrong, True
        reply = play.ask(step=step_of(actions))
        if found and not reply.HasField("batch"):
            raise Broken(
                "'step' where the action of an agent that is not to act is outside the space",
                "'batch'",
                told(reply),
            )
        if found:
            return
        play.see("step", reply)
        if subject.seconds_left() < subject.seconds / 2:
            break
    raise NotExercised("every agent was always to act, or no action can be outside")
