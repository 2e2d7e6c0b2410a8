"""The command ``farsim deploy azureml``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.azure.cli import DryRun, File, Settings, opened, show

if TYPE_CHECKING:
    from deploy.azure.jobs import Job

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Training on a head in Azure Machine Learning.",
)


@app.callback()
def azureml() -> None:
    """Training on a head in Azure Machine Learning.

    \b
    farsim deploy azureml submit farsim.yaml --follow
    farsim deploy azureml download farsim.yaml checkpoints
    """
    # The SDK announces with every command that Ray clusters are new to it.
    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)


JobName = Annotated[
    str,
    typer.Option("--job", help="One of 'status'; without, the last one.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def submit(
    file: File,
    settings: Settings = None,
    dry_run: DryRun = False,
    sims: Annotated[
        str,
        typer.Option(
            help="Addresses of the simulators; without, training.sims, or those of 'aci up'.",
            show_default=False,
        ),
    ] = "",
    sources: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Checkout that Azure builds the image from, without head.image.",
            show_default=False,
        ),
    ] = None,
    another: Annotated[
        bool, typer.Option("--another", help="Also beside a job that is under way.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print what the job prints.")
    ] = False,
) -> None:
    """Make the cluster and the environment if they are not there, and submit a training job.

    Run it again to go on after an error: nothing is made twice.

    \b
    farsim deploy azureml submit farsim.yaml --dry-run
    farsim deploy azureml submit farsim.yaml --set training.stop.steps=100000 --follow
    """
    from deploy.azure import jobs
    from deploy.azure.head import HeadRequests
    from farsim.addresses import expand

    account, deployment = opened(file, settings)
    given = tuple(expand(sims)) if sims else None
    requests = HeadRequests(account, deployment, given, sources)
    if dry_run:
        show(requests.shown())
        return
    made = jobs.submit(requests, lambda name: typer.echo(f"ready    {name}"), another)
    if made.studio:
        typer.echo(f"studio   {made.studio}")
    if follow:
        logs(file, settings, made.name, follow=True)
    else:
        typer.echo(f"\nfarsim deploy azureml logs {file} --job {made.name} --follow")


@app.command()
def status(file: File, settings: Settings = None, as_json: AsJson = False) -> None:
    """List the deployment's jobs, and what they do.

    \b
    farsim deploy azureml status farsim.yaml
    """
    from rich.console import Console
    from rich.table import Table

    from deploy.azure import jobs

    account, deployment = opened(file, settings)
    found = jobs.jobs(account.machine_learning(), deployment)
    if as_json:
        typer.echo(json.dumps([vars(each) for each in found], indent=2, default=str))
        return
    if not found:
        typer.echo(f"none of '{deployment.name}'; 'farsim deploy azureml submit {file}' makes one")
        return
    table = Table("job", "status", "submitted", "studio")
    for each in found:
        created = f"{each.created:%Y-%m-%d %H:%M}" if each.created else ""
        table.add_row(each.name, each.status, created, each.studio)
    Console().print(table)


@app.command()
def logs(
    file: File,
    settings: Settings = None,
    name: JobName = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over, or Ctrl-C.")
    ] = False,
) -> None:
    """Print what a job prints. Ctrl-C ends the printing, and not the job.

    \b
    farsim deploy azureml logs farsim.yaml --follow
    """
    from deploy.azure import job_outputs

    account, deployment = opened(file, settings)
    client = account.machine_learning()
    found = _job(file, settings, name)
    if not follow:
        typer.echo(job_outputs.log(account, client, found.name), nl=False)
        return
    typer.echo(f"job {found.name} is {found.status}", err=True)
    for text in job_outputs.follow(account, client, deployment, found.name):
        sys.stdout.write(text)
        sys.stdout.flush()
    found = _job(file, settings, found.name)
    typer.echo(f"job {found.name} is {found.status}", err=True)
    if found.status != "Completed":
        raise typer.Exit(1)


@app.command()
def metrics(
    file: File,
    settings: Settings = None,
    name: JobName = "",
    metric: Annotated[
        str, typer.Option(help="All values of this one, as CSV.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print the last values of a job's metrics, or all of one.

    \b
    farsim deploy azureml metrics farsim.yaml
    farsim deploy azureml metrics farsim.yaml --metric train/return_mean > return.csv
    """
    from deploy.azure import job_outputs

    account, _ = opened(file, settings)
    client = account.machine_learning()
    found = _job(file, settings, name)
    if metric:
        rows = job_outputs.history(account, client, found.name, metric)
        if as_json:
            typer.echo(json.dumps([{"steps": step, metric: value} for step, value in rows]))
            return
        typer.echo(f"steps,{metric}")
        for step, value in rows:
            typer.echo(f"{step},{value:.10g}")
        return
    values = job_outputs.metrics(account, client, found.name)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    width = max(map(len, values), default=0)
    for key, value in sorted(values.items()):
        typer.echo(f"{key:<{width}}  {value:.6g}")
    if not values:
        typer.echo(f"job {found.name} ({found.status}) has logged none yet")


@app.command()
def cancel(file: File, settings: Settings = None, name: JobName = "") -> None:
    """End a job; what it has written stays.

    \b
    farsim deploy azureml cancel farsim.yaml
    """
    from deploy.azure import jobs

    account, _ = opened(file, settings)
    found = _job(file, settings, name)
    if found.is_finished:
        typer.echo(f"job {found.name} is {found.status} already")
        return
    jobs.cancel(account.machine_learning(), found)
    typer.echo(f"cancelled  {found.name}")


@app.command()
def download(
    file: File,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="checkpoints, tensorboard, videos, results, logs; without, all.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    name: JobName = "",
    to: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder; without, runs/<job>.", show_default=False),
    ] = None,
) -> None:
    """Bring what a job has written here, also while it runs. Run it again for what is new.

    \b
    farsim deploy azureml download farsim.yaml checkpoints videos
    farsim evaluate runs/scheduling-1/outputs
    """
    from deploy.azure import job_outputs

    account, _ = opened(file, settings)
    found = _job(file, settings, name)
    folder = to or Path("runs") / found.name
    count = job_outputs.download(
        account, account.machine_learning(), found, folder, typer.echo, tuple(what or ())
    )
    typer.echo(f"{count} files in {folder}")


@app.command()
def down(file: File, settings: Settings = None) -> None:
    """Cancel the deployment's jobs, remove its cluster and what was uploaded for it.

    \b
    farsim deploy azureml down farsim.yaml
    """
    from deploy.azure import jobs
    from deploy.azure.machine_learning import HeadPlan

    left = jobs.down(HeadPlan(*opened(file, settings)), lambda name: typer.echo(f"removed  {name}"))
    for each in left:
        typer.echo(f"left     {each}")


def _job(file: Path, settings: list[str] | None, name: str) -> Job:
    from deploy.azure import jobs

    account, deployment = opened(file, settings)
    return jobs.job(account.machine_learning(), deployment, name)
