"""The command ``farsim policy``."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, Enum):
    """Where networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def policy(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run of farsim train, one of its checkpoints, or a checkpoint of RLlib.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option(help="Where to listen, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:50061",
    watch: Annotated[
        bool, typer.Option("--watch", help="Take newer checkpoints into service as they appear.")
    ] = False,
    watch_seconds: Annotated[
        float, typer.Option(min=0.01, help="How often to look, with --watch.")
    ] = 1.0,
    keep: Annotated[
        int, typer.Option(min=1, help="How many versions can be asked for, the newest included.")
    ] = 2,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy/--sampled",
            help="The likeliest actions, or drawn ones, for clients that do not say.",
        ),
    ] = True,
    shadow: Annotated[
        Path | None,
        typer.Option(
            help="A second checkpoint that is asked too, and only recorded.", show_default=False
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            help="Log what was decided on what, to a .jsonl or .parquet file.", show_default=False
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Unpickle checkpoints, which runs code that they contain."),
    ] = False,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.auto,
    max_batch: Annotated[int, typer.Option(min=1, help="Observations in one forward pass.")] = 256,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="How long one waits at most for others to join it.")
    ] = 2.0,
    http: Annotated[
        int,
        typer.Option(
            min=-1, max=65535, help="Port of the HTTP endpoint; 0 takes a free one.", metavar="PORT"
        ),
    ] = -1,
    metrics_port: Annotated[int, typer.Option(help="Port for Prometheus; 0 for none.")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Instead of serving, write an ONNX model (.onnx), or a folder with the policies "
            "free of pickle.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--policy", help="Which policy to export, of several.")] = "",
    ray_serve: Annotated[
        bool,
        typer.Option("--ray-serve", help="Run as a Ray Serve application, at --address over HTTP."),
    ] = False,
    replicas: Annotated[
        str, typer.Option(help="With --ray-serve: how many, or min-max for autoscaling.")
    ] = "1",
    ongoing_requests: Annotated[
        int,
        typer.Option(min=1, help="With --replicas min-max: questions that one shall have in hand."),
    ] = 64,
    grpc_port: Annotated[
        int,
        typer.Option(
            min=-1,
            max=65535,
            help="With --ray-serve: of gRPC, for Describe and Act; on every interface.",
            metavar="PORT",
        ),
    ] = -1,
    ray_address: Annotated[
        str, typer.Option(help="With --ray-serve: of a Ray cluster; without, a local one.")
    ] = "",
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Server certificate, PEM.")
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
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Let in only clients with this token."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text even beyond this machine.")
    ] = False,
    max_sessions: Annotated[int, typer.Option(min=1, help="Live sessions at a time.")] = 4096,
    max_episodes: Annotated[int, typer.Option(min=1, help="Live episodes at a time.")] = 65536,
    max_message_bytes: Annotated[int, typer.Option(min=65536)] = 64 * 1024 * 1024,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Events of a session without a reply.")
    ] = 16,
    lease_seconds: Annotated[
        float, typer.Option(min=0, help="How long a session outlives a broken connection.")
    ] = 60.0,
    idle_seconds: Annotated[
        float, typer.Option(min=1, help="How long a session may be silent.")
    ] = 300.0,
    grace_seconds: Annotated[
        float, typer.Option(min=0, help="On SIGTERM, how long answers may take.")
    ] = 10.0,
    debug: Annotated[bool, typer.Option("--debug", help="Verbose log.")] = False,
    port_file: Annotated[
        Path | None,
        typer.Option(
            help="Write the addresses there, gRPC's and HTTP's, once clients can connect."
        ),
    ] = None,
    exit_with_parent: Annotated[
        int, typer.Option(metavar="PID", help="Stop when this parent process has gone.")
    ] = 0,
) -> None:
    """Serve a trained policy to simulators that ask for actions, until SIGTERM or Ctrl-C.

    Needs no simulator, no Ray cluster and no training script. Checkpoints of farsim train are
    loaded without pickle; others only with --trust.

    \b
    Examples:
      farsim policy runs/deeprm-20250101-120000 --watch
      farsim policy runs/deeprm-20250101-120000/checkpoints/000100 --http 8080
      farsim policy checkpoint_000010 --trust --audit decisions.parquet
      farsim policy runs/new --shadow runs/old --audit decisions.jsonl
      farsim policy runs/deeprm-20250101-120000 --export deeprm.onnx
      farsim policy runs/deeprm-20250101-120000 --ray-serve --replicas 1-8 --address 127.0.0.1:8000
      farsim policy runs/new --address 0.0.0.0:50061 --tls-cert server.pem \\
          --tls-key server-key.pem --tls-client-ca ca.pem --token-file token
    """
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Its own news: which version is served.
    logging.getLogger("agent.policy").setLevel(logging.INFO)
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")

    if name and export is None:
        raise typer.BadParameter("--policy says which one to --export; all of them are served")
    if export is not None:
        from agent.policy.export import export_to

        for line in export_to(checkpoint, trust, export, name):
            print(f"farsim: {line}")
        return

    from agent.live.limits import Limits
    from agent.live.server import PolicyServerOptions
    from agent.policy.runtime import Settings
    from farsim.serving import read_token

    settings = Settings(checkpoint, trust, keep, device.value, watch, watch_seconds, shadow, audit)
    if ray_serve:
        if tls_cert is not None or token_file is not None:
            raise typer.BadParameter("--ray-serve has no TLS and no token: put a proxy before it")
        from agent.policy import ray_serve as application
        from agent.policy.serving import write_ports

        app = application.application(
            settings, greedy, replicas, max_batch, max_wait_ms / 1000, ongoing_requests
        )

        def ready(bound: list[str]) -> None:
            for protocol, where in zip(("HTTP", "gRPC"), bound, strict=False):
                print(f"farsim: serving over {protocol} on {where}", flush=True)
            if port_file is not None:
                write_ports(port_file, bound)

        grpc_or_none = grpc_port if grpc_port >= 0 else None
        application.run(app, address, insecure, ray_address, ready, grpc_or_none)
        return
    if grpc_port >= 0:
        raise typer.BadParameter("--grpc-port goes with --ray-serve; else gRPC is at --address")

    limits = Limits(
        max_sessions=max_sessions,
        max_episodes=max_episodes,
        max_message_bytes=max_message_bytes,
        max_in_flight=max_in_flight,
        lease_seconds=lease_seconds,
        idle_seconds=idle_seconds,
        max_batch=max_batch,
        max_wait_seconds=max_wait_ms / 1000,
    )
    from agent.policy.serving import serve

    serve(
        settings,
        address,
        PolicyServerOptions(
            tls_cert,
            tls_key,
            tls_client_ca,
            read_token(token_file),
            insecure,
            grace_seconds,
            debug,
            limits,
            greedy=greedy,
        ),
        http if http >= 0 else None,
        metrics_port,
        port_file,
        exit_with_parent,
    )
