"""What a simulator may offer besides: pictures and saved states."""

from __future__ import annotations

from farsim import tensors
from farsim.check.play import Play
from farsim.check.stream import told
from farsim.check.subject import Subject
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.errors import FarsimError
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

CHAPTER = Chapter()
_UNDECLARED = "A capability that the simulator does not declare."
#: How far the future of a loaded state is looked at, in steps.
_FUTURE = 15


@CHAPTER.check(
    "render", "pictures", "uint8 [height, width, 3], RGB, one for each environment named."
)
def _pictures(subject: Subject) -> None:
    if not subject.simulator.render_modes:
        raise NotOffered("no render modes")
    play = subject.open(render_mode=subject.simulator.render_modes[0])
    play.reset()
    for rows in (None, tensor_pb2.Rows(index=[play.count - 1])):
        count = play.count if rows is None else 1
        reply = play.ask(render=pb.Render(environments=rows))
        sent = f"'render' of {count} environments"
        if reply.error.code == pb.ERROR_CODE_LIMIT and count > 1:
            play.reset()  # Too many pictures for one message; their environments have no episode.
            continue
        if not reply.HasField("frames"):
            raise Broken(sent, "'frames'", told(reply))
        try:
            frames = [tensors.unpack(frame) for frame in reply.frames.frames]
        except FarsimError as error:
            raise Broken(sent, "tensors", str(error)) from error
        found = [tensors.describe(frame.dtype, frame.shape) for frame in frames]
        good = all(f.dtype == "uint8" and f.ndim == 3 and f.shape[2] == 3 for f in frames)
        if len(frames) != count or not good:
            raise Broken(sent, f"{count} of uint8 [height, width, 3]", str(found))


@CHAPTER.check("render", "undeclared", _UNDECLARED)
def _render_undeclared(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    sent = "'render' in a session that was opened without a render_mode"
    play.refused([pb.ERROR_CODE_UNSUPPORTED], sent, render=pb.Render())


@CHAPTER.check("state", "undeclared", _UNDECLARED)
def _state_undeclared(subject: Subject) -> None:
    if subject.simulator.can_save_state:
        raise NotExercised("can_save_state is true")
    play = subject.open()
    play.reset()
    play.refused([pb.ERROR_CODE_UNSUPPORTED], "'save_state'", save_state=pb.SaveState())
    load = pb.LoadState(states=[b""] * play.count)
    play.refused([pb.ERROR_CODE_UNSUPPORTED], "'load_state'", load_state=load)


def _saved(subject: Subject, play: Play) -> list[bytes]:
    if not subject.simulator.can_save_state:
        raise NotOffered("can_save_state is false")
    reply = play.ask(save_state=pb.SaveState())
    if not reply.HasField("states") or len(reply.states.states) != play.count:
        raise Broken("'save_state'", f"{play.count} states", told(reply))
    return list(reply.states.states)


_PUTS = (
    "Puts environments into states saved before, by this or another session of the same "
    "simulator with the same options. The reply is a `Batch` with the observations there."
)


def _loads(subject: Subject, elsewhere: bool) -> None:
    play = subject.open()
    if not subject.reproducible:
        raise NotExercised("the same seed does not give the same episode, so none can tell")
    play.reset(seeds=subject.seeds())
    for _ in range(3):
        view = play.act()
        if play.over():
            break
    if view.faults or play.over():
        raise NotExercised("an episode was over within three steps")
    states = _saved(subject, play)
    there = view.observations()
    actions, future = [], []
    for _ in range(_FUTURE):
        actions.append(play.draw())
        future.append(play.step(actions[-1]).figure())
        if play.opened.autoreset_mode == pb.AUTORESET_MODE_DISABLED and play.over():
            break
    if elsewhere:
        subject.end()
        play = subject.open()
    reply = play.ask(load_state=pb.LoadState(states=states))
    sent = "'load_state'" + (" in another session" if elsewhere else "")
    if not reply.HasField("batch"):
        raise Broken(sent, "'batch'", told(reply))
    if play.see("load_state", reply).observations() != there:
        raise Broken(sent, "the observations that there were when it was saved", "other ones")
    for number, (action, figure) in enumerate(zip(actions, future, strict=True), 1):
        if play.step(action).figure() != figure:
            raise Broken(
                f"{sent}, then the actions that were sent after the states were saved",
                "the replies that came at first",
                f"another one to step {number}",
            )


@CHAPTER.check("state", "in this session", _PUTS)
def _in_this_session(subject: Subject) -> None:
    _loads(subject, elsewhere=False)


@CHAPTER.check("state", "in another session", _PUTS)
def _in_another_session(subject: Subject) -> None:
    _loads(subject, elsewhere=True)


@CHAPTER.check(
    "state", "their number", "repeated bytes states = 2; // One for each environment named."
)
def _number_of_states(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    states = [*_saved(subject, play), b""]
    play.refused(
        [pb.ERROR_CODE_INVALID_ARGUMENT],
        f"'load_state' of {play.count} environments with {len(states)} states",
        load_state=pb.LoadState(states=states),
    )
