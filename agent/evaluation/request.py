"""What an evaluation is to be, and what it tells on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from agent.evaluation import pictures
from agent.evaluation.trajectories import Format
from agent.training.checkpoint import Checkpoint

#: Algorithms whose policy has a distribution to draw from.
_STOCHASTIC = ("PPO", "MAPPO", "APPO", "IMPALA", "SAC")


@dataclass(frozen=True)
class Request:
    """What an evaluation is to be.

    Attributes:
        checkpoint: the policy.
        out: folder for the results.
        sims: addresses of servers; empty starts local ones.
        local_servers: how many local servers to start.
        episodes: for each policy and load.
        seed: of the episodes.
        loads: for DeepRM, chances of a new job in a time step.
        options: of the simulator; they override those that the policy was trained with.
        gif: whether to write an animation of an episode.
        mp4: whether to write a video of it.
        trajectories: the format in which to write the policy's episodes; None for not at all.
        connection: fields of ``ConnectionOptions``.
        opponents: with several agents, who else decides for groups: "group=what".
        shuffle_messages: whether to play with others' messages, too.
        success_distance: how near its goal an agent must then be in the end; None for the usual.
    """

    checkpoint: Checkpoint
    out: Path
    sims: str = ""
    local_servers: int = 2
    episodes: int = 200
    seed: int = 0
    loads: Sequence[float] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    gif: bool = False
    mp4: bool = False
    trajectories: Format | None = None
    connection: Mapping[str, Any] = field(default_factory=dict)
    opponents: Sequence[str] = ()
    shuffle_messages: bool = False
    success_distance: float | None = None

    @property
    def title(self) -> str:
        """For tables and charts."""
        manifest = self.checkpoint.manifest
        return (
            f"{manifest.algo} on {manifest.simulator} after {manifest.steps:,} steps, "
            f"{self.episodes} unseen episodes"
        )


def ways_to_act(algo: str) -> list[bool]:
    """Whether a policy is to play greedily, for each way to play it; the first one is its own.

    Policies that are trained to draw their actions are first played so.
    """
    if algo == "MADDPG":
        return [True, False]
    return [False, True] if algo in _STOCHASTIC else [True]


class Report:
    """What is told and written.

    Args:
        request: what is carried out.
        console: where to tell.
    """

    def __init__(self, request: Request, console: Console) -> None:
        self._request = request
        self.console = console

    @contextlib.contextmanager
    def progress(self, policies: int) -> Iterator[Progress]:
        """A bar for the episodes of so many policies."""
        progress = Progress(
            TextColumn("{task.fields[policy]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with progress:
            progress.add_task("", total=policies * self._request.episodes, policy="")
            yield progress

    def tell_file(self, what: str, path: Path) -> None:
        """That there is a file now."""
        self.console.print(f"{what:<12}{path}", soft_wrap=True)

    def write_film(self, frames: pictures.Reel) -> None:
        """A picture of the episode, and what else of it is wanted."""
        request = self._request
        if not len(frames):
            return
        writers = {"png": (True, pictures.write_png)}
        writers |= {"gif": (request.gif, pictures.write_gif)}
        writers |= {"mp4": (request.mp4, pictures.write_mp4)}
        for suffix, (wanted, write) in writers.items():
            if wanted:
                path = request.out / f"episode.{suffix}"
                write(frames, path)
                self.tell_file("episode", path)
