"""The command ``farsim doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farsim.channel import ConnectionOptions
from farsim.errors import FarsimError

#: Where nobody says how wide lines may be, tables should at least be whole.
_LOG_WIDTH = 120


def doctor(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="host:port, host:first-last, or several with commas: of simulators or policies.",
            show_default=False,
        ),
    ] = "",
    sims: Annotated[
        str, typer.Option(help="The same, as farsim train takes it.", show_default=False)
    ] = "",
    policy: Annotated[
        str, typer.Option(help="The same, as farsim live takes it.", show_default=False)
    ] = "",
    simulator: Annotated[
        str, typer.Option(help="Which of its simulators; the first by default.", show_default=False)
    ] = "",
    envs: Annotated[int, typer.Option(min=1, help="Environments in a session.")] = 16,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: an option to open sessions with. Repeatable."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="To measure for, and to wait for one answer.")
    ] = 5.0,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CA of the server's certificate, PEM."),
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
    """Say why a server can not be reached, or where a step's time goes.

    It goes the way to the server step by step and stops at the first that fails; then it steps a
    simulator, or asks a policy, for a while and looks where the time goes. The likeliest cause and
    its remedy come first.

    The exit status is 0 if every server is reached, else 1; 2 if the command line is wrong.

    \b
    farsim doctor localhost:50051
    farsim doctor sim-a:50051-50054,sim-b:50051 --simulator deeprm --envs 64
    farsim doctor sim-a:50051 --tls-ca certs/ca.pem --token-file certs/token
    farsim doctor --policy localhost:50061 --json
    """
    from farsim.addresses import expand

    if sum(map(bool, (address, sims, policy))) != 1:
        raise typer.BadParameter("give one of ADDRESS, --sims and --policy")
    try:
        from rich.console import Console

        from farsim import options as option_values
        from farsim.doctor import report
        from farsim.doctor.examination import Wishes, examine

        addresses = expand(address or sims or policy)
        connection = ConnectionOptions(
            tls_ca=_text(tls_ca),
            tls_cert=_text(tls_cert),
            tls_key=_text(tls_key),
            token_file=_text(token_file),
        )
        options = option_values.parse(option or ())
        wishes = Wishes(connection, simulator, envs, options, seconds)
        console = Console()
        if not console.is_terminal:
            console = Console(width=_LOG_WIDTH)
        with console.status("") if console.is_terminal else Console(quiet=True).status(""):
            diagnoses, common = examine(addresses, wishes)
    except FarsimError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from error
    if json_:
        typer.echo(report.as_json(diagnoses, common))
    else:
        report.show(diagnoses, common, console)
    if not all(diagnosis.is_reached for diagnosis in diagnoses):
        raise typer.Exit(1)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
