"""The command ``farsim evaluate``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

#: Where nobody says how wide lines may be, tables should at least be whole.
_LOG_WIDTH = 120


class TrajectoryFormat(str, Enum):
    """How to write transitions."""

    csv = "csv"
    parquet = "parquet"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A checkpoint's folder, or that of its run.", show_default=False),
    ],
    sims: Annotated[
        str,
        typer.Option(
            help="Servers, host:port or host:first-last, separated by commas; without, local "
            "ones are started and stopped.",
            show_default=False,
        ),
    ] = "",
    local_servers: Annotated[
        int, typer.Option(min=1, help="How many local servers, without --sims.")
    ] = 2,
    episodes: Annotated[int, typer.Option(min=1, help="For each policy, and load.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes; training uses none.")] = 0,
    loads: Annotated[
        str,
        typer.Option(help="For deeprm: chances of a new job in a time step, besides the trained."),
    ] = "0.1,0.3,0.5,0.7,0.9",
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: another option of the simulator than in training."),
    ] = None,
    opponent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=WHAT",
            help="With several agents: another policy for a group, or for several "
            "(GROUP+GROUP=WHAT): a checkpoint, 'random' or 'scripted'. Several are played against "
            "each other.",
            show_default=False,
        ),
    ] = None,
    shuffle_messages: Annotated[
        bool,
        typer.Option(
            "--shuffle-messages",
            help="With agents that talk: play with the messages of other episodes, too.",
        ),
    ] = False,
    success_distance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="How near its goal an agent must be in the end, for --shuffle-messages; 0.2 "
            "unless given.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for the results; without, 'evaluation' in the one given.",
            show_default=False,
        ),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Animate an episode.")] = False,
    mp4: Annotated[
        bool, typer.Option("--mp4", help="Film an episode; needs farsim[video].")
    ] = False,
    trajectories: Annotated[
        TrajectoryFormat | None,
        typer.Option(help="Write every transition of the learned policy.", show_default=False),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CA of the servers' certificates, PEM."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Client certificate, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its private key, PEM."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the bearer token."),
    ] = None,
) -> None:
    """Compare a checkpoint with other policies on episodes that it has not seen.

    A checkpoint can run code when it is loaded: use only those that you trust.

    \b
    farsim evaluate runs/deeprm-20250101-120000 --gif
    farsim evaluate runs/deeprm-20250101-120000 --sims 10.0.0.4:50051-50054
    farsim evaluate runs/tag --opponent agents=random --opponent agents=runs/tag-ddpg
    farsim evaluate runs/reference --shuffle-messages
    """
    from rich.console import Console

    from agent.training import checkpoint as checkpoints
    from agent.training.cli import connection_fields
    from farsim import options as option_values

    found = checkpoints.find(checkpoint)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    with console.status("loading RLlib …"):
        from agent.evaluation.evaluation import Evaluation
        from agent.evaluation.multi_agent.evaluation import MultiAgentEvaluation
        from agent.evaluation.request import Request
    request = Request(
        checkpoint=found,
        out=out or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "evaluation",
        sims=sims,
        local_servers=local_servers,
        episodes=episodes,
        seed=seed,
        loads=_numbers(loads),
        options=option_values.parse(option or ()),
        gif=gif,
        mp4=mp4,
        trajectories=trajectories.value if trajectories is not None else None,
        connection=connection_fields(tls_ca, tls_cert, tls_key, token_file),
        opponents=opponent or (),
        shuffle_messages=shuffle_messages,
        success_distance=success_distance,
    )
    if found.manifest.is_multi_agent:
        MultiAgentEvaluation(request, console).carry_out()
    else:
        Evaluation(request, console).carry_out()


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no list of numbers: {error}") from error
    if any(not 0 <= number <= 1 for number in numbers):
        raise typer.BadParameter(f"loads are chances, between 0 and 1, not '{text}'")
    return numbers
