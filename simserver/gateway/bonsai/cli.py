"""The command ``farsim gateway bonsai``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from farsim import options as option_values


def bonsai(
    address: Annotated[
        str, typer.Option(help="Where to serve Farsim's gRPC, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    http: Annotated[
        str, typer.Option(help="Where simulators register, host:port: their SIM_API_HOST.")
    ] = "127.0.0.1:50080",
    reward: Annotated[
        str, typer.Option(help="Expression on the state and the action, or module:function.")
    ] = "0",
    terminal: Annotated[
        str, typer.Option(help="The same, for whether the episode has come to its end.")
    ] = "",
    episode_steps: Annotated[
        int, typer.Option(min=0, help="Truncate episodes after so many steps; 0 for no bound.")
    ] = 0,
    halted: Annotated[
        str, typer.Option(help="What a simulator's 'halted' means: terminal or truncated.")
    ] = "terminal",
    observe: Annotated[
        list[str] | None,
        typer.Option(help="A field of the state to observe; all if none is named. Repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: default of a field of the configuration. Repeatable."),
    ] = None,
    seed_field: Annotated[
        str, typer.Option(help="The field of the configuration that gets the episode's seed.")
    ] = "",
    interface: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Interface description, JSON, to use instead of the simulators' own.",
        ),
    ] = None,
    simulators: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="YAML with reward, terminal, ... for each of several kinds, by name.",
        ),
    ] = None,
    access_key: Annotated[
        str,
        typer.Option(
            envvar="FARSIM_BONSAI_ACCESS_KEY", help="Let in only simulators with this key."
        ),
    ] = "",
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long a session that is opened waits for simulators.")
    ] = 120.0,
    replace_seconds: Annotated[
        float, typer.Option(min=0, help="How long an environment waits for another simulator.")
    ] = 10.0,
    idle_seconds: Annotated[
        float, typer.Option(min=0.05, help="When simulators that wait are told to ask again.")
    ] = 10.0,
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Server certificate, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its private key, PEM.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Let in only learners with its certificate."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Let in only learners with this token."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text even beyond this machine.")
    ] = False,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics; 0 for none.")] = 0,
    max_sessions: Annotated[int, typer.Option(min=1)] = 64,
    lease_seconds: Annotated[
        float, typer.Option(min=0, help="How long a session outlives a broken connection.")
    ] = 60.0,
    heartbeat_seconds: Annotated[
        float, typer.Option(min=0.05, help="Longest silence during a long step.")
    ] = 2.0,
    grace_seconds: Annotated[
        float, typer.Option(min=0, help="On SIGTERM, how long steps may take to finish.")
    ] = 10.0,
    debug: Annotated[
        bool, typer.Option("--debug", help="Send tracebacks to clients; verbose log.")
    ] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write the two addresses there, gRPC first, once both can be used."),
    ] = None,
    exit_with_parent: Annotated[
        int, typer.Option(metavar="PID", help="Stop when this parent process has gone.")
    ] = 0,
) -> None:
    """Offer simulators that speak the retired Bonsai simulator API, until SIGTERM or Ctrl-C.

    \b
    Examples:
      farsim gateway bonsai --reward '-abs(state.value - 50)' --episode-steps 10
      SIM_API_HOST=http://127.0.0.1:50080 SIM_WORKSPACE=any SIM_ACCESS_KEY=any python my_sim.py
      farsim train Adder --sims 127.0.0.1:50051
      farsim gateway bonsai --reward my_goals:reward --terminal 'state.temperature > 90' \\
          --http 0.0.0.0:443 --tls-cert server.pem --tls-key server-key.pem --access-key "$KEY"
      farsim gateway bonsai --simulators kinds.yaml
    """
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")

    from farsim import serving
    from simserver.gateway.bonsai.gateway import Gateway
    from simserver.gateway.bonsai.kind import Rules, RulesError
    from simserver.gateway.bonsai.rules_file import read_interface, read_rules
    from simserver.gateway.bonsai.workspace import Waits
    from simserver.limits import Limits
    from simserver.server import ServerOptions

    rules = {
        "": Rules(
            reward,
            terminal,
            episode_steps,
            halted,
            tuple(observe or ()),
            option_values.parse(option or ()),
            seed_field,
            None if interface is None else read_interface(interface),
        )
    }
    if simulators is not None:
        if rules[""] != Rules():
            raise RulesError(
                "with --simulators, the file says reward, terminal, episode_steps, ... of each kind"
            )
        rules = read_rules(simulators)
    limits = Limits(
        max_sessions=max_sessions, lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds
    )
    options = ServerOptions(
        tls_cert,
        tls_key,
        tls_client_ca,
        serving.read_token(token_file),
        insecure,
        grace_seconds,
        debug,
        limits,
    )
    waits = Waits(deal=wait_seconds, replace=replace_seconds, idle=idle_seconds)
    gateway = Gateway(rules, waits, address, http, options, access_key)

    def ready(bound: str) -> None:
        scheme = "http" if tls_cert is None else "https"
        print(f"farsim: simulators register at {scheme}://{gateway.http}", flush=True)
        print(f"farsim: serving those that have on {bound}", flush=True)
        if port_file is not None:
            # Renamed into place, so that whoever waits for the file never sees half of it.
            partial = port_file.with_name(port_file.name + ".partial")
            partial.write_text(f"{bound}\n{gateway.http}\n")
            os.replace(partial, port_file)

    def expose_metrics() -> None:
        if metrics_port:
            from prometheus_client import start_http_server

            registry = gateway.server.metrics.registry
            host = address.rpartition(":")[0]
            serving.metrics_at(
                f"{host}:{metrics_port}",
                lambda port, where: start_http_server(port, where, registry),
            )

    serving.run(gateway, expose_metrics, ready, exit_with_parent)
