"""Ray for one training run: a local one that leaves nothing behind, or a cluster that is there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farsim.errors import ServerUnavailable

#: What Ray appends to its folder takes up to 70 characters, and our own folder in it 20.
_LONGEST_FOLDER = 15

#: How long a cluster may take to answer before Ray, which tries for minutes, is asked to connect.
_CONNECT_SECONDS = 5.0


def quiet(level: int | str = logging.ERROR) -> None:
    """Keeps RLlib from announcing its own deprecations and defaults with every network it makes."""
    for name in ("ray", "ray.rllib"):
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def ray_runtime(address: str = "", cpus: int = 1) -> Iterator[None]:
    """Connects to Ray, and disconnects.

    Args:
        address: of a cluster, which is left running; empty starts Ray on this machine, without a
            dashboard and whatever ``RAY_ADDRESS`` says, and stops it at the end.
        cpus: that a local Ray shall have for actors at least, whether the machine has or not.

    Raises:
        ServerUnavailable: there is no cluster at that address, or it wants another token.
    """
    # Ray's own warnings about its usage statistics and environment, on every start.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _cluster(address) if address else _local(cpus):
        yield


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    import ray
    from ray.exceptions import AuthenticationError

    try:
        _knock(address)
    except OSError as error:
        raise ServerUnavailable(f"no Ray cluster at {address}: {error}", address) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (AuthenticationError, OSError, ValueError, RuntimeError) as error:
        # Ray does not always say that it was the token.
        raise ServerUnavailable(
            f"no Ray cluster at {address} that lets us in: {error}. If it wants a token, "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, say which",
            address,
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _local(cpus: int) -> Iterator[None]:
    import ray

    with tempfile.TemporaryDirectory(
        prefix="farsim-ray-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as folder:
        with _few_processes():
            ray.init(
                address="local",
                num_cpus=max(cpus, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(Path(folder).resolve()),
                # Processes that wait for tasks: there are actors alone, not one for each processor.
                _system_config={
                    "enable_worker_prestart": False,
                    "prestart_worker_first_driver": False,
                },
            )
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Lets ``ray.init`` leave out three processes of which nobody has any use here.

    They are the autoscaler, what carries logs to the driver, and what the dashboard would ask;
    together they take as long to start as all the rest. ``ray.init`` has no arguments for them.
    """
    parameters: Any = importlib.import_module("ray._private.parameter")
    node: Any = importlib.import_module("ray._private.node").Node
    whole, start_api_server = parameters.RayParams, node.start_api_server
    parameters.RayParams = functools.partial(whole, no_monitor=True, include_log_monitor=False)
    node.start_api_server = lambda self, **options: None
    try:
        yield
    finally:
        parameters.RayParams, node.start_api_server = whole, start_api_server


def _knock(address: str) -> None:
    """Raises ``OSError`` if nobody listens at a ``host:port``; other forms are left to Ray."""
    match = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    if match:
        target = (match[1].strip("[]"), int(match[2]))
        socket.create_connection(target, timeout=_CONNECT_SECONDS).close()


def _short_folder() -> str:
    """Where to put Ray's folder: the paths of its Unix sockets may have 107 characters at most."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_FOLDER or not Path("/tmp").is_dir() else "/tmp"
