"""The command ``farsim train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    simulator: Annotated[
        str,
        typer.Argument(
            help="deeprm, adder, particle/<scenario>, gymnasium/<id>, <module>:<class>; with "
            "--sims its name there. Not needed with --resume, nor with --live.",
            show_default=False,
        ),
    ] = "",
    sims: Annotated[
        str,
        typer.Option(
            help="Servers, host:port or host:first-last, separated by commas; without, local "
            "ones are started and stopped.",
            show_default=False,
        ),
    ] = "",
    deployment: Annotated[
        str,
        typer.Option(
            help="Of 'farsim deploy' on this machine, which knows the servers' addresses and "
            "certificates, instead of --sims.",
            show_default=False,
        ),
    ] = "",
    local_servers: Annotated[
        int, typer.Option(min=1, help="How many local servers, without --sims.")
    ] = 2,
    algo: Annotated[
        str,
        typer.Option(
            help="PPO, APPO, IMPALA, DQN, SAC, MADDPG or MAPPO; without, the training file's, or "
            "MADDPG for particle/..., else PPO.",
            show_default=False,
        ),
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Training file (YAML), with RLlib's own names.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: an option of the simulator. Repeatable."),
    ] = None,
    policies: Annotated[
        str,
        typer.Option(
            help="With several agents: shared, each, group, module:function, or a mapping from "
            "agents or groups, '{adversaries: team, agent_0: prey}'; without, the training "
            "file's, or group.",
            show_default=False,
        ),
    ] = "",
    stop_return: Annotated[
        float | None,
        typer.Option(
            help="Stop when the mean return, summed over agents, is this or more.",
            envvar="FARSIM_STOP_RETURN",
        ),
    ] = None,
    stop_steps: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many environment steps in all.", envvar="FARSIM_STOP_STEPS"
        ),
    ] = None,
    stop_time: Annotated[
        float | None,
        typer.Option(help="Stop after so many seconds.", envvar="FARSIM_STOP_TIME"),
    ] = None,
    video_every: Annotated[
        int,
        typer.Option(
            min=0,
            help="Iterations from one video of a greedy episode to the next, in 'videos' in the "
            "run's folder and in TensorBoard; 0: none.",
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for the results; without, runs/<simulator>-<time>.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for checkpoints; without, 'checkpoints' in the run's folder.",
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int,
        typer.Option(min=0, help="Iterations from one checkpoint to the next; 0: only the last."),
    ] = 20,
    resume: Annotated[
        Path | None,
        typer.Option(help="Checkpoint, or a run's folder, to go on from.", show_default=False),
    ] = None,
    num_envs: Annotated[
        int | None,
        typer.Option(min=1, help="Environments of each env runner.", show_default=False),
    ] = None,
    env_runners: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that sample; 0: the learner's own.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of everything random; without, one is drawn."),
    ] = None,
    ray_address: Annotated[
        str,
        typer.Option(help="A Ray cluster to run on; without, a local Ray.", show_default=False),
    ] = "",
    ray_nodes: Annotated[
        int,
        typer.Option(min=0, help="With --ray-address: nodes that it must have before it begins."),
    ] = 0,
    wait_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="How long servers (--sims) and --ray-nodes may take to be there; 0: none."
        ),
    ] = 0.0,
    mlflow: Annotated[
        bool | None,
        typer.Option(
            "--mlflow/--no-mlflow",
            help="Log to MLflow; without, where MLFLOW_TRACKING_URI is set and in Azure ML.",
            show_default=False,
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CA of the servers' certificates, PEM."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Client certificate, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its private key, PEM."),
    ] = None,
    tls_server_name: Annotated[
        str,
        typer.Option(
            help="The host that the servers' certificate names, if not that of their addresses.",
            show_default=False,
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the bearer token."),
    ] = None,
    connection_option: Annotated[
        list[str] | None,
        typer.Option(
            "--connection",
            metavar="NAME=VALUE",
            help="How long to wait for servers, as resume_seconds=5, and how much to take from "
            "them: a field of ConnectionOptions; also a section of training files. Repeatable.",
            show_default=False,
        ),
    ] = None,
    sampling_option: Annotated[
        list[str] | None,
        typer.Option(
            "--sampling",
            metavar="NAME=VALUE",
            help="sample_ahead=true: while the learner works, with the weights from before that "
            "(needs --env-runners); splits=2: some environments step while the policy acts on the "
            "others; inference=numpy: act without PyTorch. Also a section of training files. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    gateway: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Listen there for simulators that dial in (farsim serve --attach); TLS and token "
            "options are then this side's own. --sims may name further servers.",
            show_default=False,
        ),
    ] = "",
    gateway_wait: Annotated[
        float,
        typer.Option(
            min=0, help="With --gateway: seconds to wait for the first simulator; 0: for ever."
        ),
    ] = 0.0,
    envs_per_session: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="For servers that come and go: environments of a session, which moves as one; 0, "
            "the default with --gateway: so many that a runner has up to 16 sessions.",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Simulators run by themselves and ask here for actions; TLS and token options "
            "are then this side's own (with --live-runners those of both sides).",
        ),
    ] = False,
    live_address: Annotated[
        str,
        typer.Option(help="With --live: where to listen; further env runners take the next ports."),
    ] = "127.0.0.1:50061",
    live_runners: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --live: so many of the --env-runners take live simulators, the others step "
            "remote environments as without --live; 0: all take live ones.",
        ),
    ] = 0,
    spaces: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="With --live: what simulators see and do (JSON), instead of naming one; with "
            "neither, it is what the first one that comes says.",
        ),
    ] = None,
    max_staleness: Annotated[
        int | None,
        typer.Option(
            min=-1,
            help="With --live: learn from what is at most so many weights old; -1: from all.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="With --live or --gateway: plain text even beyond this machine.",
        ),
    ] = False,
) -> None:
    """Train a policy on local or remote simulators.

    \b
    farsim train deeprm --stop-steps 500000
    farsim train deeprm --sims 10.0.0.4:50051-50054 --config examples/deeprm-ppo.yaml
    farsim train deeprm --deployment deeprm --connection resume_seconds=2
    farsim train deeprm --env-runners 1 --sampling sample_ahead=true
    farsim train particle/simple_spread --video-every 10 --stop-return -33
    farsim train particle/simple_tag --algo PPO --policies each
    farsim train --resume runs/deeprm-20250101-120000
    farsim train deeprm --gateway 0.0.0.0:50071 --tls-cert server.pem --tls-key server-key.pem
    farsim train deeprm --live --live-address 0.0.0.0:50061 --insecure
    farsim train deeprm --sims 10.0.0.4:50051-50054 --live --env-runners 3 --live-runners 1
    """
    # gRPC would tell of every program that is started while there are simulators, as ffmpeg is.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from rich.console import Console

    from agent.training import checkpoint as checkpoints
    from agent.training import connection as connections
    from agent.training import sampling as samplings
    from agent.training.policies import read_wish
    from agent.training.request import Request
    from agent.training.run import Run, new_folder
    from agent.training.stopping import StopConditions
    from farsim import options as option_values

    found = checkpoints.find(resume) if resume is not None else None
    patience = option_values.parse(connection_option or ())
    connections.check(patience)
    sampling = option_values.parse(sampling_option or ())
    samplings.check(sampling)
    connection = connection_fields(tls_ca, tls_cert, tls_key, token_file)
    if tls_server_name:
        connection["tls_server_name"] = tls_server_name
    if ray_nodes and not ray_address:
        raise typer.BadParameter("--ray-nodes is for --ray-address")
    suited: dict[str, float] = {}
    if deployment:
        if sims or (live and not live_runners):
            raise typer.BadParameter("--deployment is in place of --sims, and not for --live")
        from farsim import deployment as deployments

        deployed = deployments.read(deployment)
        sims = ",".join(deployed.addresses)
        connection = {**deployed.connection, **connection}
        suited = connections.suited_to(deployed)
        if not simulator and found is None and len(deployed.simulators) == 1:
            simulator = deployed.simulators[0]
    gateway_request = None
    if gateway:
        if live or deployment:
            raise typer.BadParameter("--gateway is not for --live, nor for --deployment")
        from agent.training.gateway import GatewayRequest

        gateway_request = GatewayRequest.of(gateway, connection, insecure, gateway_wait)
        connection = {}
        insecure = False
        envs_per_session = envs_per_session or 0
    live_request = None
    if live:
        if video_every:
            raise typer.BadParameter(
                "--video-every asks simulators for pictures, and live ones can not be asked"
            )
        from agent.training import live as live_training

        if sampling_option and not live_runners:
            raise typer.BadParameter("--sampling is for environments that are stepped from here")
        live_request = live_training.request_of(
            live_address, spaces, max_staleness, connection, insecure, live_runners
        )
        if not live_runners:
            connection = {}
        if not live_runners and (spaces is not None or (found is None and not sims)):
            simulator = simulator or live_training.NAMELESS
    elif spaces is not None or max_staleness is not None or insecure or live_runners:
        raise typer.BadParameter(
            "--live-runners, --spaces and --max-staleness need --live, --insecure that or --gateway"
        )
    if not simulator:
        if found is None:
            raise typer.BadParameter("name a simulator, or a checkpoint to --resume")
        simulator = found.manifest.simulator
    file = None
    if config is not None:
        from agent.training import configuration

        file = configuration.load(config)
    request = Request(
        simulator=simulator,
        out=out or new_folder(simulator),
        sims=sims,
        local_servers=local_servers,
        algo=algo,
        file=file,
        stop=StopConditions(stop_return, stop_steps, stop_time),
        checkpoint_folder=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=found,
        ray_address=ray_address,
        ray_nodes=ray_nodes,
        wait_seconds=wait_seconds,
        mlflow=mlflow,
        options=option_values.parse(option or ()),
        layer=_layer(num_envs, env_runners),
        seed=seed,
        policies=read_wish(policies) if policies else None,
        video_every=video_every,
        connection={**suited, **(file.connection if file else {}), **patience, **connection},
        live=live_request,
        gateway=gateway_request,
        envs_per_session=envs_per_session,
        sampling={**(file.sampling if file else {}), **sampling},
    )
    Run(request, Console()).carry_out()


def connection_fields(
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
) -> dict[str, str]:
    """The fields of ``ConnectionOptions`` that command-line options set."""
    paths = {
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "token_file": token_file,
    }
    # Absolute, since Ray's actors have another working directory.
    return {name: str(path.absolute()) for name, path in paths.items() if path is not None}


def _layer(num_envs: int | None, env_runners: int | None) -> dict[str, dict[str, Any]]:
    if num_envs is None and env_runners is None:
        return {}
    from agent.training.configuration import Setting

    settings = {}
    if num_envs is not None:
        settings["num_envs_per_env_runner"] = Setting(num_envs, "--num-envs")
    if env_runners is not None:
        settings["num_env_runners"] = Setting(env_runners, "--env-runners")
    return {"env_runners": settings}
