"""What happens when an episode is over, in each mode."""

from __future__ import annotations

import numpy as np

from farsim import spaces, tensors
from farsim.check.batches import View
from farsim.check.play import Play, step_of
from farsim.check.subject import EPISODE_STEPS, Subject
from farsim.check.verdicts import Broken, Chapter, NotExercised
from farsim.errors import FarsimError
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_SAME_STEP = (
    "The step that ends an environment's episode also starts its next: `observation` is the new "
    "episode's first, and `final_observation` the ended one's last."
)


def _ended(subject: Subject, play: Play) -> set[int]:
    """Steps until an episode is over, and returns where."""
    for _ in range(EPISODE_STEPS):
        over = play.over()
        if over:
            return over
        if subject.seconds_left() < subject.seconds / 2:
            break
        play.act()
    raise NotExercised("no episode ended in this check's time: make them shorter with --option")


@CHAPTER.check(
    "autoreset",
    "NEXT_STEP",
    "The step after the end ignores the environment's actions, starts a new episode, and returns "
    "its first observations with reward 0 and neither terminated nor truncated.",
)
def _next_step(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_NEXT_STEP)
    play = subject.open(autoreset_mode=pb.AUTORESET_MODE_NEXT_STEP)
    play.reset(seeds=subject.seeds())
    over = _ended(subject, play)
    view = play.act()
    sent = f"the 'step' after the end of episodes in environments {sorted(over)}"
    begun = set(view.started) | set(view.faults)
    if begun & over != over:
        raise Broken(sent, f"started {sorted(over)}", f"{view.started}")
    if set(view.started) - over:
        raise Broken(sent, f"started {sorted(over)} alone", f"{view.started}")
    for part in view.parts:
        try:
            columns = [
                np.asarray(tensors.unpack(column)).reshape(-1)
                for column in (
                    part.message.reward,
                    part.message.terminated,
                    part.message.truncated,
                )
            ]
        except FarsimError as error:
            raise NotExercised(f"the reply can not be read: {error}") from error
        for at, row in enumerate(part.rows):
            values = [column[at].item() for column in columns]
            if row // part.group.agents in view.started and any(values):
                raise Broken(
                    sent,
                    "reward 0, not terminated, not truncated",
                    f"reward {values[0]}, terminated {values[1]}, truncated {values[2]} in row "
                    f"{row}",
                )


@CHAPTER.check("autoreset", "SAME_STEP starts the next", _SAME_STEP)
def _same_step_starts_the_next(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_SAME_STEP)
    play = subject.open(autoreset_mode=pb.AUTORESET_MODE_SAME_STEP)
    play.reset(seeds=subject.seeds())
    sent = "steps until the end of an episode"
    for _ in range(EPISODE_STEPS):
        before = [set(rows) for rows in play.going]
        view = play.act()
        ended: list[set[int]] = [
            rows & part.ended for rows, part in zip(before, view.parts, strict=True)
        ]
        joined = [part.going - rows for rows, part in zip(before, view.parts, strict=True)]
        over = {
            env
            for env in view.envs
            if all(
                not ((rows - gone) | (new if env not in view.started else set()))
                & set(part.group.rows([env]))
                for rows, gone, new, part in zip(before, ended, joined, view.parts, strict=True)
            )
        } - set(view.faults)
        if set(view.started) - set(view.faults) != over:
            raise Broken(sent, f"started {sorted(over)}, where no agent goes on", f"{view.started}")
        for part, gone in zip(view.parts, ended, strict=True):
            expected = sorted(row for row in gone if row // part.group.agents in over)
            found = [
                row
                for row in part.message.final_rows.index
                if row // part.group.agents not in view.faults
            ]
            if found != expected:
                raise Broken(sent, f"final_rows {expected}", f"{found}")
        if over:
            return
        if subject.seconds_left() < subject.seconds / 2:
            break
    raise NotExercised("no episode ended in this check's time: make them shorter with --option")


@CHAPTER.check("autoreset", "SAME_STEP's last observation", _SAME_STEP)
def _same_steps_last_observation(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_SAME_STEP)
    subject.offers(pb.AUTORESET_MODE_NEXT_STEP)
    if not subject.reproducible:
        raise NotExercised("the same seed does not give the same episode, so none can tell")
    one = subject.open(autoreset_mode=pb.AUTORESET_MODE_NEXT_STEP)
    other = subject.open(autoreset_mode=pb.AUTORESET_MODE_SAME_STEP)
    for play in (one, other):
        play.reset(seeds=subject.seeds())
    for _ in range(EPISODE_STEPS):
        actions = one.draw()
        ends, shown = one.step(actions), other.step(actions)
        if shown.faults:
            raise NotExercised("an environment failed")
        if one.over() or any(part.message.final_rows.index for part in shown.parts):
            _compare(ends, shown)
            return
        if subject.seconds_left() < subject.seconds / 2:
            break
    raise NotExercised("no episode ended in this check's time: make them shorter with --option")


def _compare(ends: View, shown: View) -> None:
    """Raises unless the final observations of ``shown`` are those that ``ends`` has."""
    for first, second in zip(ends.parts, shown.parts, strict=True):
        rows = [row for row in second.message.final_rows.index if row in first.rows]
        if not rows:
            continue
        space = first.group.observation_space
        values = spaces.decode(space, first.message.observation.tensors, len(first.rows))
        places = np.array([first.rows.index(row) for row in rows])
        last = spaces.encode(space, spaces.take(space, values, places), len(rows))
        if [t.data for t in last] != [t.data for t in second.message.final_observation.tensors]:
            raise Broken(
                "the same steps in NEXT_STEP and SAME_STEP, until an end",
                "in final_observation what NEXT_STEP shows as the last observation",
                f"something else in rows {rows}",
            )


@CHAPTER.check("autoreset", "only with SAME_STEP", "Only with SAME_STEP")
def _only_with_same_step(subject: Subject) -> None:
    modes = [m for m in subject.simulator.autoreset_modes if m != pb.AUTORESET_MODE_SAME_STEP]
    if not modes:
        raise NotExercised("there is only SAME_STEP")
    for view in subject.walk(modes[0]).views:
        for part in view.parts:
            if part.message.HasField("final_rows") and part.message.final_rows.index:
                raise Broken("steps in another mode", "no final_rows", "final_rows")


@CHAPTER.check(
    "autoreset",
    "DISABLED",
    "A step for an environment whose episode is over is an error (ERROR_CODE_EPISODE_OVER); the "
    "client resets it.",
)
def _disabled(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_DISABLED)
    play = subject.open(autoreset_mode=pb.AUTORESET_MODE_DISABLED)
    play.reset(seeds=subject.seeds())
    over = sorted(_ended(subject, play))
    play.refused(
        [pb.ERROR_CODE_EPISODE_OVER],
        f"'step' of all environments, where the episodes of {over} are over",
        step=step_of(play.draw()),
    )
    reply = play.ask(reset=pb.Reset(environments={"index": over}))
    if not reply.HasField("batch"):
        raise Broken(f"'reset' of {over}", "'batch'", "an error")
    play.see("reset", reply, over)
    play.act()
