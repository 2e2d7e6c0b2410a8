"""The command ``farsim gateway attach``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def attach(
    listen: Annotated[
        str,
        typer.Option(help="Where simulator servers dial in, host:port; port 0 takes a free one."),
    ] = "127.0.0.1:50071",
    address: Annotated[
        str, typer.Option(help="Where clients find them, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:50072",
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Server certificate, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its private key, PEM.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Let in only those with a certificate from this CA."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Let in only those with this token."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text even beyond this machine.")
    ] = False,
    max_seats: Annotated[
        int, typer.Option(min=1, help="Connections of simulator servers; each seat has one.")
    ] = 4096,
    max_message_bytes: Annotated[int, typer.Option(min=65536)] = 64 * 1024 * 1024,
    seat_seconds: Annotated[
        float, typer.Option(min=0, help="How long a session waits for a free seat.")
    ] = 10.0,
    away_seconds: Annotated[
        float,
        typer.Option(min=0, help="How long a session waits for its server to dial in again."),
    ] = 5.0,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write both addresses there, one a line, once they are listened on."),
    ] = None,
    exit_with_parent: Annotated[
        int, typer.Option(metavar="PID", help="Stop when this parent process has gone.")
    ] = 0,
) -> None:
    """Take simulator servers that dial in, and offer them as one server.

    Clients use its --address as that of any server. On this machine alone that one is open to all;
    beyond it, it asks for what --listen asks for.

    \b
    Examples:
      farsim gateway attach
      farsim gateway attach --listen 0.0.0.0:50071 --tls-cert server.pem --tls-key server-key.pem \\
          --token-file token
      farsim serve deeprm --attach head:50071 --tls-ca ca.pem --token-file token
      farsim train deeprm --sims 127.0.0.1:50072 --envs-per-session 4
    """
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("agent.gateway").setLevel(logging.INFO)
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")

    from agent.gateway.attach.gateway import Gateway, GatewayOptions, relay_options
    from farsim.serving import ListenOptions, read_token, run

    dialling = ListenOptions(tls_cert, tls_key, tls_client_ca, read_token(token_file), insecure)
    options = GatewayOptions(
        dialling,
        relay_options(address, dialling),
        max_seats,
        max_message_bytes,
        seat_seconds,
        away_seconds,
    )
    gateway = Gateway(listen, address, options)

    def ready(bound: str) -> None:
        print(f"farsim: simulators dial in at {gateway.listens_at}", flush=True)
        print(f"farsim: clients find them at {bound}", flush=True)
        if port_file is not None:
            # Renamed into place, so that whoever waits for the file never sees half of it.
            partial = port_file.with_name(port_file.name + ".partial")
            partial.write_text(f"{gateway.listens_at}\n{bound}\n")
            os.replace(partial, port_file)

    run(gateway, ready=ready, parent=exit_with_parent)
