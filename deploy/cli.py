"""The command ``farsim deploy``, one subcommand for each place where simulators can run."""

from __future__ import annotations

import typer

from deploy.azure.cli import aci_app, network_app
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


@app.callback()
def deploy() -> None:
    """Run simulators in containers, and train on them from here.

    \b
    farsim deploy docker build sim
    farsim deploy docker up deeprm --replicas 3
    farsim train --deployment deeprm
    farsim deploy docker down deeprm
    """
