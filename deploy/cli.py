"""The command ``farsim deploy``, one subcommand for each place where simulators can run."""

from __future__ import annotations

import json

import typer

from deploy.azure.cli import DryRun, File, Settings, aci_app, network_app, opened, show
from deploy.azure.machine_learning_cli import app as azureml_app
from deploy.docker.cli import app as docker_app

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(docker_app, name="docker")
app.add_typer(network_app, name="network")
app.add_typer(aci_app, name="aci")
app.add_typer(azureml_app, name="azureml")


@app.callback()
def deploy() -> None:
    """Run simulators in containers here or on Azure, and train on them.

    \b
    farsim deploy docker build sim
    farsim deploy docker up deeprm --replicas 3
    farsim train --deployment deeprm
    farsim deploy docker down deeprm

    \b
    farsim deploy up farsim.yaml --dry-run
    farsim deploy up farsim.yaml
    farsim deploy down farsim.yaml
    """


@app.command()
def up(file: File, settings: Settings = None, dry_run: DryRun = False) -> None:
    """Make all of a deployment on Azure: network, simulators, then the training job.

    Run it again to go on after an error, or to change something: nothing is made twice.

    \b
    farsim deploy up farsim.yaml --dry-run
    farsim deploy up farsim.yaml --set training.stop.steps=100000
    """
    from rich.console import Console

    from deploy.azure import whole

    account, deployment = opened(file, settings)
    if dry_run:
        show(whole.requests(account, deployment))
        return
    with Console(stderr=True).status(f"making deployment '{deployment.name}' …"):
        whole.up(account, deployment, lambda name: typer.echo(f"ready    {name}"))
    if deployment.training is not None:
        typer.echo(f"\nfarsim deploy azureml logs {file} --follow")


@app.command()
def down(file: File, settings: Settings = None) -> None:
    """Remove what 'up' has made on Azure, and only that; says what stays.

    \b
    farsim deploy down farsim.yaml
    """
    from rich.console import Console

    from deploy.azure import whole

    account, deployment = opened(file, settings)
    with Console(stderr=True).status(f"removing deployment '{deployment.name}' …"):
        left = whole.down(account, deployment, lambda name: typer.echo(f"removed  {name}"))
    for name in left:
        typer.echo(f"left     {name}")


@app.command()
def schema() -> None:
    """Print what a deployment file may say, as JSON Schema, for editors.

    \b
    farsim deploy schema > farsim.schema.json
    """
    from deploy.schema import Deployment

    typer.echo(json.dumps(Deployment.model_json_schema(), indent=2))
