"""An episode of every simulator as a GIF, and all of them on one sheet: ``make gallery``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from agent.batch import BatchedValue
from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.policy import GroupPolicy, LineUp, RandomGroup, ScriptedGroup
from agent.evaluation.multi_agent.recording import TeamFilm
from agent.evaluation.multi_agent.rollout import play
from agent.evaluation.pictures import Frame, Reel, write_gif
from agent.evaluation.policy import Policy
from agent.evaluation.request import ways_to_act
from agent.evaluation.seeds import evaluation_seeds
from agent.group_step import GroupStep
from agent.models import masking
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import Checkpoint, InvalidCheckpoint
from agent.training.interface import Interface, Simulators, look_at
from farsim.errors import FarsimError

if TYPE_CHECKING:
    from PIL import Image

#: Those that have pictures.
SIMULATORS = (
    "deeprm",
    "particle/simple",
    "particle/simple_spread",
    "particle/simple_tag",
    "particle/simple_adversary",
    "particle/simple_push",
    "particle/simple_reference",
    "particle/simple_speaker_listener",
    "particle/simple_crypto",
    "particle/simple_world_comm",
    "gymnasium/CartPole-v1",
)
#: Of a GIF: pixels across, and pictures at most. A page with all of them has to load.
_WIDTH, _MOST_FRAMES = 320, 50
#: Of the sheet: tiles across, and a tile's pixels, the line under it included.
_ACROSS, _TILE, _LINE = 4, 280, 26
#: The share of an episode that has passed in the sheet's pictures.
_MOMENT = 0.4
_PAPER, _INK, _EDGE = (255, 255, 255), (40, 44, 52), (222, 225, 230)


@dataclass(frozen=True)
class Exhibit:
    """An episode.

    Attributes:
        simulator: its name.
        caption: what is to be seen.
        frames: its pictures, small.
    """

    simulator: str
    caption: str
    frames: Reel

    @property
    def name(self) -> str:
        """For files."""
        return self.simulator.rpartition("/")[2].lower()


class SoleAgent:
    """A policy for one agent, as one for a group."""

    def __init__(self, policy: Policy, action_mask: bool) -> None:
        self._policy = policy
        self._action_mask = action_mask

    def begin(self, num_envs: int) -> None:
        self._policy.begin(num_envs)

    def act(self, step: GroupStep) -> BatchedValue:
        observation: Any = step.observation
        if self._action_mask:
            mask = step.action_masks[0].astype(np.float32)
            observation = {masking.OBSERVATIONS: observation, masking.ACTION_MASK: mask}
        return self._policy.act(observation, {})


class Balance:
    """Keeps CartPole's pole up: pushes to where it falls."""

    name = "scripted"

    def begin(self, num_envs: int) -> None:
        pass

    def act(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        # Cart's position and velocity, pole's angle and angular velocity.
        _, velocity, angle, falling = observation.T
        return (angle + 0.3 * falling + 0.05 * velocity > 0).astype(np.int64)


def exhibit(
    simulators: Simulators, trained: Checkpoint | None = None, seed: int = 0
) -> Exhibit | None:
    """Plays an episode; None if there are no pictures of it.

    The trained policy plays if there is one, else a scripted one, else chance.

    Args:
        simulators: where, and what.
        trained: on this simulator.
        seed: of the episode.

    Raises:
        FarsimError: it cannot be played.
    """
    options = dict(simulators.options)
    if trained is not None:
        options |= trained.manifest.options
    elif simulators.simulator == "deeprm":
        from agent.evaluation.heuristics import OPTIONS

        options |= OPTIONS
    chosen = Simulators(simulators.addresses, simulators.simulator, options, simulators.connection)
    interface = look_at(chosen)
    if not interface.can_render:
        return None
    line_up = _trained(trained, interface, seed) if trained else _untrained(interface, seed)
    film = TeamFilm()
    with TeamArena(chosen).open(1, render=True) as env:
        play(env, line_up, evaluation_seeds(seed, 1), [film])
    title = simulators.simulator.rpartition("/")[2]
    return Exhibit(simulators.simulator, f"{title}: {line_up.name}", _small(film.frames))


def trained_below(folder: Path) -> dict[str, Checkpoint]:
    """The longest trained checkpoint of each simulator, of the runs in a folder."""
    found: dict[str, Checkpoint] = {}
    for path in sorted(folder.iterdir()):
        try:
            checkpoint = checkpoints.find(path)
        except InvalidCheckpoint:
            continue  # It is something else, or has not come to a checkpoint.
        simulator = checkpoint.manifest.simulator
        best = found.get(simulator)
        if best is None or best.manifest.steps < checkpoint.manifest.steps:
            found[simulator] = checkpoint
    return found


def sheet(exhibits: Sequence[Exhibit]) -> Image.Image:
    """A moment of each episode, with its caption."""
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(exhibits) // _ACROSS)
    across = min(_ACROSS, len(exhibits))
    paper = Image.new("RGB", (across * _TILE, rows * (_TILE + _LINE)), _PAPER)
    pen = ImageDraw.Draw(paper)
    font = ImageFont.load_default(14)
    for place, shown in enumerate(exhibits):
        row, column = divmod(place, _ACROSS)
        left, top = column * _TILE, row * (_TILE + _LINE)
        image = Image.fromarray(shown.frames[int(_MOMENT * len(shown.frames))])
        image.thumbnail((_TILE - 12, _TILE - 12), Image.Resampling.LANCZOS)
        x, y = left + (_TILE - image.width) // 2, top + (_TILE - image.height) // 2
        paper.paste(image, (x, y))
        pen.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=_EDGE)
        where = (left + _TILE // 2, top + _TILE + _LINE // 3)
        pen.text(where, shown.caption, _INK, font, anchor="mm")
    return paper


def _trained(checkpoint: Checkpoint, interface: Interface, seed: int) -> LineUp:
    manifest = checkpoint.manifest
    greedy = ways_to_act(manifest.algo)[0]
    name = f"{manifest.algo}, {manifest.steps:,} steps"
    policies: list[GroupPolicy]
    if manifest.is_multi_agent:
        from agent.evaluation.multi_agent.learned import LearnedGroup

        policies = [LearnedGroup(checkpoint, group, greedy, seed) for group in interface.groups]
    else:
        from agent.evaluation.learned import LearnedPolicy

        policies = [SoleAgent(LearnedPolicy(checkpoint, greedy, seed), manifest.action_mask)]
    return LineUp(name, policies)


def _untrained(interface: Interface, seed: int) -> LineUp:
    from agent.evaluation.heuristics import textbook
    from agent.particle.controllers import scripted

    simulator, options, groups = interface.simulator, interface.session_options, interface.groups
    for name, controllers in scripted(simulator, options, groups).items():
        return LineUp(name, [ScriptedGroup(controller) for controller in controllers])
    sole: Policy | None = None
    if simulator == "deeprm":
        sole = next(policy for policy in textbook(options, seed) if policy.name == "SJF")
    elif simulator.startswith("gymnasium/CartPole"):
        sole = Balance()
    if sole is not None:
        return LineUp(sole.name, [SoleAgent(sole, action_mask=False)])
    return LineUp("random", [RandomGroup(group, seed, n) for n, group in enumerate(groups)])


def _small(frames: Reel) -> Reel:
    from PIL import Image

    small = Reel()
    for index in range(0, len(frames), -(-len(frames) // _MOST_FRAMES)):
        image = Image.fromarray(frames[index])
        height = round(image.height * _WIDTH / image.width)
        frame: Frame = np.asarray(image.resize((_WIDTH, height), Image.Resampling.LANCZOS))
        small.append(frame)
    return small


def hang(
    out: Path, runs: Path | None, seed: int, simulators: Sequence[str] = SIMULATORS
) -> Iterator[Path]:
    """Plays and writes everything; the files as they come.

    Args:
        out: folder for ``gallery.png``, and for a folder ``gallery`` with the GIFs.
        runs: a folder with folders of runs, for trained policies.
        seed: of the episodes.
        simulators: whose.

    Raises:
        FarsimError: an episode cannot be played.
    """
    from agent.local_servers import LocalServers

    trained = trained_below(runs) if runs is not None else {}
    (out / "gallery").mkdir(parents=True, exist_ok=True)
    exhibits = []
    with LocalServers(list(simulators)) as servers:
        for name in simulators:
            shown = exhibit(Simulators(servers.addresses, name), trained.get(name), seed)
            if shown is None or not len(shown.frames):
                continue
            exhibits.append(shown)
            path = out / "gallery" / f"{shown.name}.gif"
            write_gif(shown.frames, path)
            yield path
    if exhibits:
        path = out / "gallery.png"
        sheet(exhibits).save(path, optimize=True)
        yield path


def main(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the pictures.")] = Path(
        "docs/images"
    ),
    runs: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with folders of runs: their policies play where there are any. A "
            "checkpoint can run code when it is loaded.",
        ),
    ] = None,
    # One in which the two agents of simple_reference have different goals.
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 5,
) -> None:
    """Render an episode of every simulator, and one sheet with all of them."""
    from agent.training.ray_runtime import quiet

    quiet()
    try:
        for path in hang(out, runs, seed):
            typer.echo(f"{path.stat().st_size / 1000:6.0f} kB  {path}")
    except FarsimError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
