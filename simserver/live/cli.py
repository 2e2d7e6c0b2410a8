"""The command ``farsim live``."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from farsim import options as option_values

#: Seconds between two pictures of what happens.
_REFRESH_SECONDS = 0.25


class Mode(str, Enum):
    """What the experience is for."""

    serve = "serve"
    collect = "collect"
    shadow = "shadow"


class FallbackName(str, Enum):
    """What acts when no answer comes in time."""

    none = "none"
    last = "last"
    zero = "zero"


def live(
    simulator: Annotated[
        str,
        typer.Argument(
            help="deeprm, adder, particle/<scenario>, gymnasium/<id>, or "
            "<module>:<class or factory>.",
            show_default=False,
        ),
    ],
    policy: Annotated[
        str, typer.Option(help="The policy's server, host:port.", show_default=False)
    ],
    episodes: Annotated[
        int, typer.Option(min=0, help="How many; 0 for as many as there are until Ctrl-C.")
    ] = 10,
    pace: Annotated[
        float, typer.Option(min=0, help="Steps a second; 0 for as fast as it can.")
    ] = 0.0,
    mode: Annotated[
        Mode,
        typer.Option(
            help="serve: actions, no learning. collect: the experience goes to the learner. "
            "shadow: act at random, and have the policy's decisions recorded."
        ),
    ] = Mode.serve,
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value: a parameter of the simulator. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first episode; the next has one more.")] = 0,
    envs: Annotated[int, typer.Option(min=1, help="Episodes at a time.")] = 1,
    compare: Annotated[
        bool,
        typer.Option(
            help="Play each episode's seed with a simple rule too: shortest job first in DeepRM, "
            "at random elsewhere."
        ),
    ] = True,
    deadline: Annotated[
        float, typer.Option(min=0, help="Seconds an answer may take; 0 for the default.")
    ] = 0.0,
    fallback: Annotated[
        FallbackName, typer.Option(help="What acts when no answer comes in time; none: an error.")
    ] = FallbackName.none,
    token_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The server's token.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Who may have signed its certificate."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Own certificate, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its private key, PEM.")
    ] = None,
) -> None:
    """Run a simulator that asks a policy's server what to do.

    \b
    Examples:
      farsim live deeprm --policy 127.0.0.1:50061
      farsim live particle/simple_spread --policy head:50061 --option N=3 --pace 10
      farsim live gymnasium/CartPole-v1 --policy head:50061 --mode collect --episodes 0 --envs 4
      farsim live deeprm --policy head:50061 --deadline 0.05 --fallback last
    """
    from rich.console import Console

    from farsim.channel import ConnectionOptions
    from farsim.live import LiveClient
    from simserver import catalogue
    from simserver.live.driver import Driver
    from simserver.live.masks import as_served
    from simserver.live.rival import rule_for
    from simserver.live.view import View
    from simserver.live.world import World

    options = option_values.parse(option or ())
    entry = catalogue.load([simulator], {})[simulator]
    world = World(entry, options)
    world.close()
    files = {"token_file": token_file, "tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
    declared: Literal["last", "zero"] | None = None
    if fallback is not FallbackName.none:
        declared = "last" if fallback is FallbackName.last else "zero"
    connection = ConnectionOptions.of(
        {name: str(path) for name, path in files.items() if path is not None}
    )
    groups = as_served(world.groups, policy, connection)
    console = Console()
    unmasked = [one.name for one, own in zip(groups, world.groups, strict=True) if one != own]
    if unmasked:
        console.print(
            f"the policy takes no action masks: those of {', '.join(unmasked)} are left out",
            highlight=False,
        )
    numbers: Any = itertools.count(1) if episodes == 0 else range(1, episodes + 1)
    seeds = _Shared((number, seed + number - 1) for number in numbers)
    with LiveClient(
        policy,
        mode.value,
        groups=groups,
        deadline=deadline or None,
        fallback=declared,
        connection=connection,
    ) as client:
        driver = Driver(client, entry, options, mode.value, pace, compare)
        title = f"{simulator} on {policy}, {mode.value}"
        view = View(console, driver, rule_for(entry) if compare else "", title)
        with ThreadPoolExecutor(envs) as pool, view:
            running = [pool.submit(driver.run, seeds) for _ in range(envs)]
            stopped = _watch(running, driver.stop, view.update)
        view.finish()
        for future in running:
            future.result()
    if stopped:
        raise typer.Exit(130)


def _watch(running: list[Future[None]], stop: Any, update: Any) -> bool:
    """Waits until all have run; whether Ctrl-C or SIGTERM has cut that short."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        left = set(running)
        while left:
            done, left = wait(left, _REFRESH_SECONDS, FIRST_COMPLETED)
            if any(future.exception() for future in done):
                stop()
            update()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return asked.is_set()


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[tuple[int, int]]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> tuple[int, int]:
        with self._lock:
            return next(self._items)
