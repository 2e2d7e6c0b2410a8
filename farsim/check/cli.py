"""The command ``farsim check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farsim.channel import ConnectionOptions
from farsim.errors import FarsimError

if TYPE_CHECKING:
    from farsim.check.verdicts import Check, Examined

#: Where nobody says how wide lines may be, tables should at least be whole.
_LOG_WIDTH = 120
#: Of a container's probe.
_HEALTH_SECONDS = 5.0


def check(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="host:port of the server.", show_default=False)
    ] = "",
    policy: Annotated[
        bool, typer.Option("--policy", help="Check a server of policies, not one of simulators.")
    ] = False,
    simulator: Annotated[
        str,
        typer.Option(
            help="Just this one of its simulators, or policies with --policy.", show_default=False
        ),
    ] = "",
    envs: Annotated[int, typer.Option(min=1, help="Environments in a session, at most.")] = 4,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: an option to open sessions with. Repeatable."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Checks to carry out: a group, or group/name with * and ?. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Checks to leave out, in the same way. Repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="The longest that one may take.")] = 20.0,
    junit: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write JUnit's XML there.", show_default=False),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the checks and their sentences.")
    ] = False,
    health: Annotated[
        bool, typer.Option("--health", help="Only ask whether it, or each of several, is SERVING.")
    ] = False,
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
    """Check whether a simulator server, or a policy server, keeps the promises of farsim.v1.

    The server may be written in any language. Whatever its simulators declare is tried, and every
    error that the contract names; what they do not declare is not needed. Nobody else should be
    using the server meanwhile.

    The exit status is 0 if all checks pass that apply, 1 if one fails, and 2 if the server can
    not be reached or the command line is wrong.

    \b
    farsim check localhost:50051
    farsim check localhost:50051 --simulator my_sim --option horizon=20 --junit check.xml
    farsim check localhost:50051 --only resume --only 'autoreset/*' --skip '*/DISABLED'
    farsim check localhost:50051-50054 --health
    farsim check --policy localhost:50061
    farsim check --list
    """
    if list_:
        _list(policy, only or (), skip or ())
        return
    if policy and option:
        raise typer.BadParameter("--option is for simulators; policies have none")
    try:
        from farsim.addresses import expand

        addresses = expand(address)
        if len(addresses) > 1 and not health:
            raise typer.BadParameter("give one address: each server is checked by itself")
        connection = ConnectionOptions(
            tls_ca=_text(tls_ca),
            tls_cert=_text(tls_cert),
            tls_key=_text(tls_key),
            token_file=_text(token_file),
        )
        if health:
            _health(addresses, connection)
        else:
            options = option or ()
            _check(
                addresses[0],
                connection,
                policy,
                simulator,
                envs,
                options,
                only or (),
                skip or (),
                seconds,
                junit,
            )
    except FarsimError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from error


def _check(
    address: str,
    connection: ConnectionOptions,
    policy: bool,
    simulator: str,
    envs: int,
    option: Sequence[str],
    only: Sequence[str],
    skip: Sequence[str],
    seconds: float,
    junit: Path | None,
) -> None:
    from rich.console import Console

    from farsim import options as option_values
    from farsim.check import report, runner

    every = _every(policy)
    unknown = runner.unmatched([*only, *skip], every)
    if unknown:
        raise typer.BadParameter(
            f"no check matches '{unknown[0]}'; 'farsim check --list' has all of them"
        )
    if junit is not None and not junit.parent.is_dir():
        raise typer.BadParameter(f"--junit {junit}: there is no folder {junit.parent}")
    checks = runner.chosen(only, skip, every)
    if not checks:
        raise typer.BadParameter("--only and --skip leave no check; 'farsim check --list' has all")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    subjects: Sequence[Examined]
    if policy:
        from farsim.check.policy.subjects import subjects as policies

        subjects = policies(address, connection, simulator, seconds)
    else:
        options = option_values.parse(option)
        subjects = runner.subjects(address, connection, simulator, envs, options, seconds)
    with console.status("") as status:
        outcomes = runner.run(
            subjects, checks, lambda check, name: status.update(f"{check.title} {name}")
        )
    report.show(outcomes, console)
    if junit is not None:
        report.write_junit(outcomes, junit)
    if not report.good(outcomes):
        raise typer.Exit(1)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _health(addresses: Sequence[str], connection: ConnectionOptions) -> None:
    import grpc

    from farsim.channel import open_channel, translate
    from farsim.check.health import status

    found = ""
    for address in addresses:
        with open_channel(address, connection) as channel:
            try:
                found = status(channel, _HEALTH_SECONDS)
            except grpc.RpcError as error:
                raise translate(error, address) from error
        if found != "SERVING":
            break
    typer.echo(found)
    if found != "SERVING":
        raise typer.Exit(1)


def _every(policy: bool) -> Sequence[Check]:
    if policy:
        from farsim.check.policy.suite import CHECKS as OF_POLICIES

        return OF_POLICIES
    from farsim.check.suite import CHECKS

    return CHECKS


def _list(policy: bool, only: Sequence[str], skip: Sequence[str]) -> None:
    from farsim.check.runner import chosen

    for check in chosen(only, skip, _every(policy)):
        typer.echo(f"{check.title}\n    {check.sentence}")
