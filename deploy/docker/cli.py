"""The command ``farsim deploy docker``."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Run simulators in containers of a Docker Engine.",
)

#: Where nobody says how wide lines may be, tables should at least be whole.
_LOG_WIDTH = 160


@app.command()
def build(
    images: Annotated[
        list[str] | None, typer.Argument(help="sim, train, or both.", show_default=False)
    ] = None,
    tag: Annotated[
        str, typer.Option(help="The image's name; without, farsim-sim or farsim-train.")
    ] = "",
    base_image: Annotated[
        str, typer.Option(help="To build on; without, the Dockerfile's.", show_default=False)
    ] = "",
    require: Annotated[
        list[str] | None,
        typer.Option(help="A further package for pip, such as 'gymnasium[atari]'. Repeatable."),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="The head's PyTorch without CUDA, gigabytes less.")
    ] = False,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of wheels that go before the package index's.",
            show_default=False,
        ),
    ] = None,
    no_index: Annotated[
        bool, typer.Option("--no-index", help="Only the wheels, no package index.")
    ] = False,
    network: Annotated[
        str,
        typer.Option(
            help="The build's network; host: this machine's, name service included.",
            show_default=False,
        ),
    ] = "",
    build_arg: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: another argument of the Dockerfile. Repeatable."),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A checkout of Farsim; without, the one at hand.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show all that the build prints.")
    ] = False,
) -> None:
    """Build the image of simulators (sim), of heads (train), or both.

    \b
    farsim deploy docker build sim
    farsim deploy docker build sim --tag atari-sim --require 'gymnasium[atari]'
    farsim deploy docker build train --cpu
    farsim deploy docker build --wheelhouse wheelhouse --no-index
    """
    from rich.console import Console

    from deploy.docker.build import IMAGES, Build
    from deploy.docker.engine import engine

    targets = list(dict.fromkeys(images or IMAGES))
    for target in targets:
        if target not in IMAGES:
            raise typer.BadParameter(f"no image '{target}'; there are {', '.join(IMAGES)}")
    if tag and len(targets) > 1:
        raise typer.BadParameter("--tag names one image: say which one to build")
    if no_index and wheelhouse is None:
        raise typer.BadParameter("--no-index leaves only --wheelhouse to install from: give it")
    arguments = dict(_pair(text) for text in build_arg or ())
    if base_image:
        arguments["BASE_IMAGE"] = base_image
    if require:
        arguments["EXTRA_REQUIREMENTS"] = " ".join(require)
    if no_index:
        arguments["PIP_NO_INDEX"] = "1"
    console = Console()
    with engine() as client:
        for target in targets:
            own = {**arguments, "TORCH": "cpu"} if cpu and target == "train" else arguments
            wanted = Build(target, tag, context, wheelhouse, own, network)
            with console.status(f"building {tag or IMAGES[target]} …") as status:

                def tell(line: str, status: object = status) -> None:
                    if verbose:
                        typer.echo(line)
                    elif line.startswith("Step "):
                        status.update(line.replace("[", r"\["))  # type: ignore[attr-defined]

                image = wanted.carry_out(client, tell)
            typer.echo(f"{tag or IMAGES[target]}: {image.attrs['Size'] / 1e6:,.0f} MB")


@app.command()
def up(
    simulators: Annotated[
        list[str], typer.Argument(help="As farsim serve takes them.", show_default=False)
    ],
    name: Annotated[
        str,
        typer.Option(
            help="Of the deployment; without, after the simulator.",
            show_default=False,
        ),
    ] = "",
    replicas: Annotated[int, typer.Option(min=1, help="Containers.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Server processes in each, on consecutive ports.")
    ] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: the default of a simulator's parameter. Repeatable."),
    ] = None,
    image: Annotated[str, typer.Option(help="To run.")] = "farsim-sim",
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of modules with simulators of your own, mounted read-only.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The first to publish; 0 takes free ones.")
    ] = 50051,
    publish: Annotated[
        str, typer.Option(help="Address of this machine to publish on; 0.0.0.0 for all of them.")
    ] = "127.0.0.1",
    host: Annotated[
        str,
        typer.Option(help="By what clients call this machine, if not by --publish."),
    ] = "",
    tls: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of 'farsim certs': TLS, and only clients with a certificate, and with "
            "the token if there is one.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text even beyond this machine.")
    ] = False,
    memory: Annotated[str, typer.Option(help="Bound of a container's memory.")] = "1g",
    cpus: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Cores that a container may use; without, one for each worker.",
            show_default=False,
        ),
    ] = None,
    pids: Annotated[
        int, typer.Option(min=16, help="Bound of a container's processes and threads.")
    ] = 512,
    wait_seconds: Annotated[
        float, typer.Option(min=1, help="How long they may take until they are healthy.")
    ] = 120.0,
) -> None:
    """Start containers with simulator servers, and wait until they are healthy.

    Ctrl-C removes what was started. Ports are published on this machine's loopback interface
    unless --publish says otherwise. Containers have no capabilities, can gain no privileges, write
    only to a small /tmp in memory, and are bounded in memory, cores and processes.

    \b
    farsim deploy docker up deeprm --replicas 3
    farsim deploy docker up my_module:MyEnv --folder ./sims --name mine --port 0
    farsim deploy docker up gymnasium/ALE/Pong-v5 --image atari-sim --workers 4
    farsim deploy docker up deeprm --publish 10.0.0.5 --tls certs
    """
    from rich.console import Console

    from deploy.docker import deployment
    from deploy.docker.engine import engine
    from deploy.docker.plan import Plan
    from deploy.docker.tls import TlsFiles

    # As Ctrl-C: a deployment half up is of no use to anyone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with engine() as client:
        plan = Plan(
            name=name or name_after(simulators[0]),
            simulators=tuple(simulators),
            replicas=replicas,
            workers=workers,
            options=tuple(option or ()),
            image=image,
            publish=publish,
            host=host,
            port=port,
            folder=folder,
            tls=TlsFiles.of(tls, host or publish) if tls else None,
            insecure=insecure,
            memory=memory,
            # The engine refuses more than it has.
            cpus=cpus or min(workers, client.info()["NCPU"]),
            pids=pids,
        )
        with Console().status(f"starting {replicas} containers …") as status:

            def tell(healthy: int) -> None:
                status.update(f"{healthy} of {replicas} containers are healthy …")

            deployment.up(client, plan, wait_seconds, tell)
    servers = len(plan.all_addresses)
    typer.echo(
        f"{plan.name}: {', '.join(simulators)} in {replicas} healthy "
        f"container{'s' if replicas > 1 else ''}, {servers} server{'s' if servers > 1 else ''}\n"
        "\n"
        f"  farsim train {simulators[0]} --sims {plan.sims}{_connection_flags(plan.connection())}\n"
        f"  farsim train {simulators[0]} --deployment {plan.name}\n"
        f"  farsim deploy docker down {plan.name}"
    )


@app.command("list")
def list_(
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, one object for each deployment.")
    ] = False,
) -> None:
    """List the deployments in the engine, found by their labels.

    \b
    farsim deploy docker list
    farsim deploy docker list --json
    """
    from rich.console import Console
    from rich.table import Table

    from deploy.docker import deployment
    from deploy.docker.engine import engine
    from deploy.docker.plan import LABEL_ADDRESSES

    with engine() as client:
        found = deployment.running(client)
        if as_json:
            everything = [
                {
                    "name": each.name,
                    "simulators": each.simulators,
                    "addresses": each.addresses,
                    "containers": each.states,
                }
                for each in found
            ]
            typer.echo(json.dumps(everything, indent=2))
            return
        if not found:
            typer.echo("no deployments; 'farsim deploy docker up' makes one")
            return
        table = Table("deployment", "simulators", "container", "state", "addresses")
        for each in found:
            for container in each.containers:
                addresses = json.loads(container.labels[LABEL_ADDRESSES])
                table.add_row(
                    each.name,
                    ", ".join(each.simulators),
                    container.name,
                    each.states[container.name],
                    ", ".join(addresses),
                )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(table)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="Of the deployment.", show_default=False)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[
        int, typer.Option(min=0, help="How many of each container's last lines; 0: all.")
    ] = 0,
) -> None:
    """Print what the servers of a deployment printed, each line after its container's name.

    \b
    farsim deploy docker logs deeprm
    farsim deploy docker logs deeprm --follow --tail 20
    """
    from deploy.docker import deployment
    from deploy.docker.engine import engine
    from deploy.docker.logs import lines

    with engine() as client:
        for line in lines(deployment.find(client, name).containers, follow, tail):
            typer.echo(line)


@app.command()
def down(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of the deployments.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All deployments in the engine.")
    ] = False,
) -> None:
    """Drain and remove deployments: containers, network, certificates' volume, and the note here.

    \b
    farsim deploy docker down deeprm
    farsim deploy docker down --all
    """
    from rich.console import Console

    from deploy.docker import deployment
    from deploy.docker.engine import engine

    if bool(names) == everything:
        raise typer.BadParameter("name deployments, or say --all")
    with engine() as client:
        chosen = names or [each.name for each in deployment.running(client)]
        for name in chosen:
            with Console().status(f"draining {name} …"):
                count = deployment.down(client, name)
            typer.echo(f"{name}: removed with its {count} container{'s' if count != 1 else ''}")


def name_after(simulator: str) -> str:
    """A deployment's name made of a simulator's: ``particle/simple_tag`` gives ``simple-tag``."""
    last = simulator.replace(":", "/").rpartition("/")[2]
    plain = "".join(letter if letter.isalnum() else "-" for letter in last.lower())
    return plain.strip("-")[:40].strip("-")


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise typer.BadParameter(f"--build-arg takes NAME=VALUE, not '{text}'")
    return name, value


def _connection_flags(connection: Mapping[str, str]) -> str:
    return "".join(f" --{field.replace('_', '-')} {value}" for field, value in connection.items())
