"""The command ``farsim serve``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from farsim import options as option_values
from farsim import polling
from farsim.errors import InvalidAddress


def serve(
    context: typer.Context,
    simulators: Annotated[
        list[str],
        typer.Argument(
            help="deeprm, adder, particle/<scenario>, gymnasium/<id>, gymnasium-vector/<id>, "
            "pettingzoo/<module>, or <module>:<class or factory>.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option(help="Where to listen, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    attach: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Listen nowhere; dial in to the gateway there (farsim gateway attach).",
            show_default=False,
        ),
    ] = "",
    seats: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --attach: the most sessions of a worker; the same as --max-sessions.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, on consecutive ports from that of --address.")
    ] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: the default of a simulator's parameter. Repeatable."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Server certificate, PEM; with --attach the one to show the gateway.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its private key, PEM.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Let in only clients with a certificate from this CA."
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="With --attach: CA of the gateway's certificate, PEM."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Let in only clients with this token; with --attach the one to show.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text even beyond this machine.")
    ] = False,
    metrics_port: Annotated[
        int, typer.Option(help="Prometheus metrics; worker i takes the i-th port from here.")
    ] = 0,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions of a worker.")] = 64,
    max_environments: Annotated[
        int, typer.Option(min=1, help="Environments of a worker, over all sessions.")
    ] = 4096,
    max_message_bytes: Annotated[int, typer.Option(min=65536)] = 64 * 1024 * 1024,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Requests of a session without a reply.")
    ] = 16,
    lease_seconds: Annotated[
        float, typer.Option(min=0, help="How long a session outlives a broken connection.")
    ] = 60.0,
    heartbeat_seconds: Annotated[
        float, typer.Option(min=0.05, help="Longest silence during a long step.")
    ] = 2.0,
    max_step_seconds: Annotated[
        float,
        typer.Option(min=0, help="A worker whose step takes longer starts anew; 0 for no bound."),
    ] = 0.0,
    spin_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How long waiting for a session's next request may keep the processor awake, "
            "such as 0.002: faster where waking it takes long.",
        ),
    ] = 0.0,
    grace_seconds: Annotated[
        float, typer.Option(min=0, help="On SIGTERM, how long steps may take to finish.")
    ] = 10.0,
    debug: Annotated[
        bool, typer.Option("--debug", help="Send tracebacks to clients; verbose log.")
    ] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write the addresses there, one a line, once clients can connect."),
    ] = None,
    exit_with_parent: Annotated[
        int, typer.Option(metavar="PID", help="Stop when this parent process has gone.")
    ] = 0,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Serve simulators over gRPC until SIGTERM or Ctrl-C.

    \b
    Examples:
      farsim serve deeprm
      farsim serve deeprm --workers 4 --option num_nw=5
      farsim serve gymnasium/CartPole-v1 adder --address 127.0.0.1:0
      farsim serve pettingzoo/mpe2.simple_tag_v3
      farsim serve my_package.my_module:MyEnv
      farsim serve deeprm --address 0.0.0.0:50051 --tls-cert server.pem --tls-key server-key.pem \\
          --tls-client-ca ca.pem --token-file token
      farsim serve deeprm --attach head:50071 --seats 2 --tls-ca ca.pem --token-file token
    """
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    host, port = _split(address)
    if attach:
        _split(attach)
    elif seats is not None or tls_ca is not None:
        raise typer.BadParameter("--seats and --tls-ca need --attach")
    if attach and spin_seconds:
        raise typer.BadParameter("--spin-seconds is for clients that connect, not for --attach")
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")
    served = ", ".join(simulators)
    announced: list[str] = []
    expected = workers

    def ready(bound: str) -> None:
        where = f"by dialling {attach}" if attach else f"on {bound}"
        print(f"farsim: serving {served} {where}", flush=True)
        announced.append(bound)
        if port_file is not None and len(announced) == expected:
            # Renamed into place, so that whoever waits for the file never sees half of it.
            partial = port_file.with_name(port_file.name + ".partial")
            partial.write_text("".join(f"{line}\n" for line in announced))
            os.replace(partial, port_file)

    if workers > 1:
        raise typer.Exit(
            _run_workers(host, port, workers, metrics_port, grace_seconds, exit_with_parent, ready)
        )

    polling.settle()
    from farsim.channel import ConnectionOptions
    from farsim.serving import read_token
    from simserver import catalogue
    from simserver.attach import Attachment
    from simserver.limits import Limits
    from simserver.server import Server, ServerOptions, run

    entries = catalogue.load(simulators, option_values.parse(option or ()))
    limits = Limits(
        max_sessions=seats or max_sessions,
        max_environments=max_environments,
        max_message_bytes=max_message_bytes,
        max_in_flight=max_in_flight,
        lease_seconds=lease_seconds,
        heartbeat_seconds=heartbeat_seconds,
        max_step_seconds=max_step_seconds,
    )
    server: Server | Attachment
    if attach:
        connection = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        connection["token_file"] = token_file
        given = {name: str(path) for name, path in connection.items() if path is not None}
        # What happens to the connection is of interest where no one else can see it.
        logging.getLogger("simserver.attach").setLevel(logging.INFO)
        server = Attachment(
            entries, attach, limits, ConnectionOptions.of(given), grace_seconds, debug
        )
    else:
        options = ServerOptions(
            tls_cert,
            tls_key,
            tls_client_ca,
            read_token(token_file),
            insecure,
            grace_seconds,
            debug,
            limits,
            spin_seconds,
        )
        server = Server(entries, address, options)
    metrics_address = f"{host}:{metrics_port}" if metrics_port else ""
    if ready_fd >= 0:

        def ready(bound: str) -> None:
            with os.fdopen(ready_fd, "w") as pipe:
                # A worker that dialled in has no address but the one it was given.
                pipe.write(f"{address if attach else bound}\n")

    run(server, metrics_address, ready, exit_with_parent)


def _run_workers(
    host: str,
    port: int,
    workers: int,
    metrics_port: int,
    grace_seconds: float,
    parent: int,
    ready: Callable[[str], None],
) -> int:
    from farsim.serving import stop_with_parent
    from simserver.workers import Workers

    if port + workers - 1 > 65535:
        raise InvalidAddress(f"{workers} ports from {port} on go beyond 65535", f"{host}:{port}")
    # Each worker is this very command, for one address.
    own = {"--workers", "--address", "--metrics-port", "--port-file", "--exit-with-parent"}
    arguments = _without(sys.argv[1:], own)

    def command(number: int, address: str) -> list[str]:
        metrics = ["--metrics-port", str(metrics_port + number)] if metrics_port else []
        return [
            sys.executable,
            "-m",
            "farsim",
            *arguments,
            "--address",
            address,
            *metrics,
            "--exit-with-parent",
            str(os.getpid()),
        ]

    addresses = [f"{host}:{port + i if port else 0}" for i in range(workers)]
    supervisor = Workers(command, addresses, grace_seconds)
    if parent:
        stop_with_parent(parent, supervisor.stop)
    return supervisor.run(ready)


def _without(arguments: list[str], flags: set[str]) -> list[str]:
    """``arguments`` less these flags and their values."""
    kept = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in flags:
            skip = True
        elif argument.partition("=")[0] not in flags:
            kept.append(argument)
    return kept


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidAddress(f"'{address}' is not host:port, as in 127.0.0.1:50051", address)
    return host, int(port)
