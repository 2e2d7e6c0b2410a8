"""The commands ``farsim deploy network`` and ``farsim deploy aci``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deploy.azure.account import Account
    from deploy.azure.container_instances import Replica
    from deploy.schema import Deployment

network_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="A virtual network on Azure for a head and simulators.",
)
aci_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Simulators in Azure Container Instances.",
)

File = Annotated[
    Path, typer.Argument(help="The deployment, in YAML.", show_default=False, dir_okay=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="name=value in place of the file's, as in azure.location=northeurope."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be sent to Azure, and send nothing.")
]


def opened(file: Path, settings: list[str] | None) -> tuple[Account, Deployment]:
    """A deployment file with the flags' settings, and where it goes."""
    from deploy.azure.account import Account
    from deploy.deployment_file import load
    from farsim.options import parse

    deployment = load(file, parse(settings or ()))
    return Account.of(deployment), deployment


def show(requests: Mapping[str, Any]) -> None:
    """Prints bodies of requests as JSON, by resource id."""
    typer.echo(json.dumps(requests, indent=2))


@network_app.command("up")
def network_up(file: File, settings: Settings = None, dry_run: DryRun = False) -> None:
    """Make the network, or bring it to what the file says.

    The head may call the simulators' ports, and nobody else anything.

    \b
    farsim deploy network up farsim.yaml --dry-run
    farsim deploy network up farsim.yaml --set network.name=rl
    """
    from deploy.azure.network import NetworkPlan, up

    plan = NetworkPlan(*opened(file, settings))
    if dry_run:
        show(plan.requests())
        return
    with _progress("making the network …"):
        up(plan, _made)


@network_app.command("down")
def network_down(file: File, settings: Settings = None) -> None:
    """Remove the network that 'up' has made, and nothing else.

    \b
    farsim deploy network down farsim.yaml
    """
    from deploy.azure.network import NetworkPlan, down

    plan = NetworkPlan(*opened(file, settings))
    with _progress("removing the network …"):
        left = down(plan, _removed)
    for name in left:
        typer.echo(f"left {name}: this deployment has not made it")


@aci_app.command("up")
def aci_up(file: File, settings: Settings = None, dry_run: DryRun = False) -> None:
    """Start the simulators, wait until Azure runs them, and note their addresses.

    Run it again to go on after an error, or to change what runs: nothing is made twice.

    \b
    farsim deploy aci up farsim.yaml --dry-run
    farsim deploy aci up farsim.yaml
    """
    from deploy.azure import container_instances

    account, deployment = opened(file, settings)
    if dry_run:
        for plan in container_instances.plans(account, deployment):
            show(plan.requests())
        return
    with _progress("starting container groups, which takes minutes …"):
        found = container_instances.up(account, deployment, _made)
    _print_addresses(deployment, found)


@aci_app.command("list")
def aci_list(
    file: File,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the deployment's container groups, and what they do.

    \b
    farsim deploy aci list farsim.yaml
    """
    from rich.console import Console
    from rich.table import Table

    from deploy.azure import container_instances

    account, deployment = opened(file, settings)
    found = container_instances.replicas(account, deployment.name)
    if as_json:
        typer.echo(json.dumps([vars(replica) for replica in found], indent=2))
        return
    if not found:
        typer.echo(f"none of '{deployment.name}'; 'farsim deploy aci up {file}' makes them")
        return
    table = Table("container group", "state", "restarts", "addresses", "Azure says")
    for each in found:
        addresses = ", ".join(each.addresses)
        table.add_row(each.name, each.state, str(each.restarts), addresses, each.said)
    Console().print(table)


@aci_app.command("addresses")
def aci_addresses(file: File, settings: Settings = None) -> None:
    """Read the addresses anew, note them for --deployment, and print the --sims argument.

    A container group that is restarted may get another address.

    \b
    farsim train deeprm --sims "$(farsim deploy aci addresses farsim.yaml)"
    """
    from deploy.azure import container_instances

    account, deployment = opened(file, settings)
    found = container_instances.note(account, deployment)
    typer.echo(",".join(address for replica in found for address in replica.addresses))


@aci_app.command("logs")
def aci_logs(
    file: File,
    replica: Annotated[str, typer.Argument(help="One of 'list'.", show_default=False)],
    settings: Settings = None,
    tail: Annotated[int, typer.Option(min=0, help="How many of the last lines; 0: all.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print what the servers of a container group printed.

    \b
    farsim deploy aci logs farsim.yaml scheduling-deeprm-0 --tail 50
    """
    from deploy.azure import container_instances

    account, _ = opened(file, settings)
    said = container_instances.logs(account, replica, tail or None)
    typer.echo(said, nl=False)
    while follow:
        # Azure has no stream of it; it is asked again, and what is new is printed.
        time.sleep(2)
        now = container_instances.logs(account, replica)
        fresh = now[len(said) :] if now.startswith(said) else now
        typer.echo(fresh, nl=False)
        said = now


@aci_app.command("down")
def aci_down(file: File, settings: Settings = None) -> None:
    """Remove the deployment's container groups, found by their tag.

    \b
    farsim deploy aci down farsim.yaml
    """
    from deploy.azure import container_instances

    account, deployment = opened(file, settings)
    with _progress("removing container groups …"):
        container_instances.down(account, deployment.name, _removed)


def _print_addresses(deployment: Deployment, found: list[Replica]) -> None:
    sims = ",".join(address for replica in found for address in replica.addresses)
    missing = [replica.name for replica in found if not replica.addresses]
    if missing:
        typer.echo(f"no address yet: {', '.join(missing)}; ask again with 'addresses'")
    if sims:
        simulator = deployment.simulators[0].simulator
        typer.echo(
            "\nfrom a machine in the network:\n"
            f"  farsim train {simulator} --sims {sims}\n"
            f"  farsim train {simulator} --deployment {deployment.name}"
        )


def _made(name: str) -> None:
    typer.echo(f"ready    {name}")


def _removed(name: str) -> None:
    typer.echo(f"removed  {name}")


def _progress(text: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(text)
