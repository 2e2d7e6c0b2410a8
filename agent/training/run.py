"""One training run: from what was asked for to a folder with its results."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agent.training import learning_curve
from agent.training import live as live_training
from agent.training.baselines import Baselines, play_baselines
from agent.training.checkpoint import Manifest, plain, versions
from agent.training.coordination import wait_for_nodes, wait_for_servers
from agent.training.display import display_on, duration
from agent.training.gateway import gateway_addresses
from agent.training.interrupt import Interrupt
from agent.training.records import PROGRESS, Records, read_progress
from agent.training.request import Decisions, Request
from agent.training.servers import server_addresses
from agent.training.tracking import tracked
from farsim import spaces
from farsim.errors import FarsimError, SpaceMismatch, Unsupported

if TYPE_CHECKING:
    from agent.live.greeting import GreetingServer
    from agent.training.algorithm import Plan, Simulators
    from agent.training.configuration import Setting
    from agent.training.film import FilmCrew
    from agent.training.interface import Interface
    from agent.training.iteration import Iteration
    from agent.training.waiting import Patience

#: In a run's folder: what it is, and what became of it.
DESCRIPTION = "run.json"
LEARNING_CURVE = "learning_curve.png"


class FolderInUse(FarsimError, ValueError):
    """A folder for results that has those of another run."""


class Run:
    """Carries out a request, and tells what happens on ``console``."""

    def __init__(self, request: Request, console: Console) -> None:
        self._request = request
        self._console = console
        self._decisions = Decisions.of(request)
        self._description: dict[str, Any] = {}
        self._host: live_training.Host | None = None
        #: Lets simulators in until there are policies, if it is they who say what to learn.
        self._greeter: GreetingServer | None = None
        #: Of the simulators that are stepped.
        self._servers: list[str] = []

    def carry_out(self) -> None:
        """Trains, and leaves everything in the request's folder.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; what had been learned is saved.
            FarsimError: the request cannot be carried out.
        """
        with Interrupt(self._tell_interrupted) as interrupt:
            self._carry_out(interrupt)
            interrupt.check()

    def _carry_out(self, interrupt: Interrupt) -> None:
        request, console = self._request, self._console
        self._check_folder()
        with contextlib.ExitStack() as stack:
            with console.status("loading RLlib …"):
                from agent.training.algorithm import Simulators, build, plan
                from agent.training.ray_nodes import shortage, spread_runners, where_runners_are
                from agent.training.ray_runtime import ray_runtime
                from agent.training.waiting import Patience, StoppedWaiting
            live = request.live
            addresses: list[str] = []
            if live is None or live.runners or not self._is_nameless:
                # With live simulators only to see what they look like, and for the heuristics.
                is_stepped = live is None or live.runners > 0
                local_servers = request.local_servers if is_stepped else 1
                if request.gateway is None:
                    servers = server_addresses(
                        request.sims, request.simulator, local_servers, console
                    )
                else:
                    servers = gateway_addresses(
                        request.gateway,
                        request.sims,
                        request.simulator,
                        console,
                        Patience(interrupt, self._decisions.stop.seconds).check,
                    )
                try:
                    addresses = stack.enter_context(servers)
                except StoppedWaiting as stopped:
                    console.print(f"finished: {stopped.reason}, and no simulator has come")
                    return
            decisions = self._decisions
            if request.wait_seconds and request.sims and request.gateway is None:
                wait_for_servers(addresses, request.connection, request.wait_seconds, console)
            if live is None or live.runners:
                self._servers = list(addresses)
            simulators = Simulators(
                addresses,
                request.simulator,
                decisions.options,
                request.connection,
                request.envs_per_session,
                request.sampling,
            )
            try:
                interface = self._look(
                    simulators, Patience(interrupt, decisions.stop.seconds), stack
                )
            except StoppedWaiting as stopped:
                console.print(f"finished: {stopped.reason}, and no simulator has come")
                return
            self._check_agents(interface)
            layers = decisions.layers
            if request.ray_address:
                layers = [self._enter_cluster(stack, addresses), *layers]
            algorithm_plan = plan(decisions.algo, simulators, interface, layers, decisions.policies)
            if live is not None:
                algorithm_plan = live_training.live_plan(algorithm_plan, live)
            self._check_resumable(algorithm_plan)
            self._describe(algorithm_plan)
            stack.push(self._tell_failed)
            if not request.ray_address:
                with console.status("starting Ray …"):
                    stack.enter_context(ray_runtime(cpus=algorithm_plan.cpus))
            with contextlib.ExitStack() as building:
                building.enter_context(console.status("building environments and networks …"))
                if request.ray_address:
                    building.enter_context(spread_runners())
                    if lacking := shortage(algorithm_plan.config):
                        console.print(f"[yellow]{lacking}[/yellow]", soft_wrap=True)
                if self._greeter is None:
                    algorithm = build(algorithm_plan)
                else:
                    with live_training.handed_over(self._greeter, algorithm_plan) as handed:
                        algorithm = build(handed)
                stack.callback(algorithm.stop)
                steps = self._restore(algorithm)
            if request.ray_address and live is None:
                self._tell_runners(where_runners_are(algorithm))
            if live is not None:
                patience = Patience(interrupt, decisions.stop.seconds)
                self._host = live_training.Host(algorithm, console, patience)
                self._update_description(servers=[*self._servers, *self._host.addresses])
            self._train(algorithm, algorithm_plan, interrupt, steps)
            self._draw_curve(simulators, algorithm_plan)

    # -- doing it -------------------------------------------------------------------------

    def _enter_cluster(
        self, stack: contextlib.ExitStack, servers: Sequence[str]
    ) -> Mapping[str, Mapping[str, Setting]]:
        """Connects to the Ray cluster; the settings that follow from its nodes."""
        from agent.training.ray_nodes import check_nodes, settings
        from agent.training.ray_runtime import ray_runtime

        request = self._request
        with self._console.status("connecting to the Ray cluster …"):
            stack.enter_context(ray_runtime(request.ray_address))
            if request.ray_nodes:
                wait_for_nodes(request.ray_nodes, request.wait_seconds, self._console)
            check_nodes(request.connection)
        if request.live is not None or request.gateway is not None:
            return {}  # Whose simulators come to this machine.
        return settings(servers, are_local=not request.sims)

    @property
    def _is_nameless(self) -> bool:
        """Whether there is no simulator that could be looked at, only those that come."""
        live = self._request.live
        if live is None or live.runners:
            return False
        return live.spaces is not None or self._request.simulator == live_training.NAMELESS

    def _look(
        self, simulators: Simulators, patience: Patience, stack: contextlib.ExitStack
    ) -> Interface:
        """What the simulators look like."""
        from agent.training.algorithm import Interface, look_at

        live = self._request.live
        if live is not None and live.spaces is None and self._is_nameless:
            self._greeter = live_training.greet(live, self._console, patience)
            stack.callback(self._greeter.close, 0.0)
            return Interface(live_training.NAMELESS, {}, self._greeter.groups)
        said = None
        if live is not None and live.spaces is not None:
            said = live_training.interface_of(live.spaces)
            if not simulators.addresses:
                return said
        interface = look_at(simulators)
        if said is not None:
            live_training.check_same(interface, said)
        return interface

    def _check_folder(self) -> None:
        """Raises ``FolderInUse`` where results of another run would be overwritten."""
        out, found = self._request.out, self._request.resume
        own = found is not None and out.resolve() in found.path.resolve().parents
        if not own and (out / PROGRESS).is_file():
            raise FolderInUse(
                f"{out} holds a run already: name another folder with --out, or go on with it "
                f"with --resume {out}",
                str(out),
            )

    def _check_agents(self, interface: Interface) -> None:
        """Whether those of a checkpoint are there, to whom its policies belong."""
        found = self._request.resume
        here = {group.name: group.agents for group in interface.groups}
        if found is not None and found.manifest.is_multi_agent and found.manifest.groups != here:
            raise SpaceMismatch(
                f"{found.path} was trained for other agents than '{interface.simulator}' has: "
                f"there {_listed(found.manifest.groups)}; here {_listed(here)}",
                str(found.path),
            )

    def _check_resumable(self, algorithm_plan: Plan) -> None:
        from agent.evaluation.learned import check_spaces
        from agent.training.configuration import InvalidConfiguration

        found = self._request.resume
        if found is None:
            return
        here = self._manifest(algorithm_plan)
        if found.manifest.algo != here.algo:
            raise InvalidConfiguration(
                f"{found.path} was trained with {found.manifest.algo} and can not go on with "
                f"{here.algo}: leave --algo out, or start anew without --resume",
                str(found.path),
            )
        if found.manifest.policies != here.policies:
            raise InvalidConfiguration(
                f"{found.path} has the policies {found.manifest.policies} and can not go on with "
                f"{here.policies}: leave the policies out, or start anew without --resume",
                str(found.path),
            )
        check_spaces(found, here.observation_space, here.action_space)

    def _restore(self, algorithm: Any) -> int:
        """Goes on from the checkpoint, if there is one; the steps done before."""
        from agent.training.algorithm import restore

        if self._request.resume is None:
            return 0
        steps = self._request.resume.manifest.steps
        restore(algorithm, self._request.resume.path, steps)
        return steps

    def _train(
        self, algorithm: Any, algorithm_plan: Plan, interrupt: Interrupt, steps: int
    ) -> None:
        from agent.training.loop import Checkpoints, train

        request = self._request
        folder = request.checkpoint_folder or request.out / "checkpoints"
        manifest = self._manifest(algorithm_plan)
        saving = Checkpoints(algorithm, manifest, folder, request.out, request.checkpoint_every)
        self._announce()
        film = self._film_crew(algorithm, algorithm_plan)
        started = time.monotonic()
        outcome = "failed"
        reason = ""
        try:
            with (
                Records(request.out) as records,
                tracked(request.mlflow, request.out, self._description, self._console) as tracking,
                display_on(self._console, self._decisions.stop) as display,
            ):

                def iterated(iteration: Iteration) -> None:
                    if tracking is not None:
                        tracking.add(iteration)
                    if film is not None and iteration.number % request.video_every == 0:
                        self._shoot(film, iteration, records)

                reason = train(
                    algorithm,
                    stop=self._decisions.stop,
                    saving=saving,
                    records=records,
                    display=display,
                    interrupt=interrupt,
                    steps_at_start=steps,
                    groups=algorithm_plan.groups,
                    iterated=iterated,
                )
            outcome = "finished" if reason else "interrupted"
        finally:
            seconds = time.monotonic() - started
            self._update_description(
                status=outcome,
                stopped_because=reason,
                seconds=round(seconds, 1),
                checkpoint=str(saving.latest) if saving.latest is not None else None,
            )
        self._console.print(
            f"{outcome} after {duration(seconds)}" + (f": {reason}" if reason else "")
        )
        if saving.latest is not None:
            self._console.print(f"checkpoint  {saving.latest}", soft_wrap=True)
        else:
            self._console.print("nothing was saved: no iteration was finished")

    def _film_crew(self, algorithm: Any, algorithm_plan: Plan) -> FilmCrew | None:
        """For videos, if there are to be any and can be."""
        from agent.training.film import VIDEOS, FilmCrew

        if not self._request.video_every:
            return None
        try:
            return FilmCrew(algorithm, algorithm_plan, self._request.out / VIDEOS)
        except Unsupported as error:
            self._console.print(f"[yellow]no videos:[/yellow] {error.message}", soft_wrap=True)
            return None

    def _shoot(self, film: FilmCrew, iteration: Iteration, records: Records) -> None:
        try:
            film.shoot(iteration.number, iteration.steps, records)
        except FarsimError as error:
            # Training can go on without; if it cannot, it says so itself.
            self._console.print(
                f"[yellow]no video of iteration {iteration.number}:[/yellow] {error.message}",
                soft_wrap=True,
            )

    def _draw_curve(self, simulators: Simulators, algorithm_plan: Plan) -> None:
        request = self._request
        if not (request.out / PROGRESS).is_file():
            return  # Interrupted before the first iteration was over.
        rows = read_progress(request.out / PROGRESS)
        baselines: Baselines = {}
        if request.gateway is None:  # Else there may be just as many seats as training has taken.
            with self._console.status("playing the baselines …"):
                baselines = play_baselines(simulators, algorithm_plan.interface)
        path = request.out / LEARNING_CURVE
        title = f"{self._decisions.algo} on {algorithm_plan.interface.simulator}"
        if learning_curve.draw(rows, path, title, baselines):
            self._console.print(f"curve       {path}", soft_wrap=True)

    # -- what is told ---------------------------------------------------------------------

    def _manifest(self, algorithm_plan: Plan) -> Manifest:
        return Manifest(
            simulator=self._request.simulator,
            options=self._decisions.options,
            session_options=algorithm_plan.interface.session_options,
            algo=self._decisions.algo,
            settings=algorithm_plan.settings,
            observation_space=algorithm_plan.observation_space,
            action_space=algorithm_plan.action_space,
            action_mask=algorithm_plan.action_mask,
            iteration=0,
            steps=0,
            seed=self._decisions.seed,
            versions=versions(),
            groups=algorithm_plan.groups,
            policies=algorithm_plan.mapping.by_agent if algorithm_plan.mapping else {},
        )

    def _describe(self, algorithm_plan: Plan) -> None:
        request = self._request
        self._description = {
            "command": sys.argv,
            "status": "running",
            "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "simulator": request.simulator,
            "servers": self._servers,
            "live": request.live is not None,
            "options": self._decisions.options,
            "connection": {
                name: value for name, value in request.connection.items() if name != "token"
            },
            "sampling": dict(request.sampling),
            "algo": self._decisions.algo,
            "settings": algorithm_plan.settings,
            "stop": self._decisions.stop.to_mapping(),
            "seed": self._decisions.seed,
            "resumed_from": str(request.resume.path) if request.resume is not None else None,
            "spaces_digest": spaces.digest(
                algorithm_plan.observation_space, algorithm_plan.action_space
            ),
            "policies": algorithm_plan.mapping.by_agent if algorithm_plan.mapping else {},
            "versions": versions(),
        }
        self._update_description()

    def _tell_failed(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Says in the description why nothing came of the run, if nothing did."""
        if error is not None and self._description["status"] == "running":
            self._update_description(status="failed", stopped_because=str(error))

    def _update_description(self, **changes: Any) -> None:
        self._description.update(changes)
        self._request.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(self._description), indent=2)
        (self._request.out / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    def _announce(self) -> None:
        where = [f"at {', '.join(self._servers)}"] if self._servers else []
        where += ["from live simulators"] if self._host is not None else []
        self._console.print(
            f"{self._decisions.algo} on {self._request.simulator} {' and '.join(where)}, "
            f"seed {self._decisions.seed}",
            soft_wrap=True,
        )
        self._console.print(f"run         {self._request.out}", soft_wrap=True)
        if not self._decisions.stop.to_mapping():
            self._console.print("No stop condition is given: Ctrl-C stops, and saves.")
        if self._host is not None:
            self._host.announce()

    def _tell_runners(self, runners: Sequence[Mapping[str, Any]]) -> None:
        """Which env runner is where in the cluster."""
        self._update_description(env_runners=runners)
        for runner in runners:
            where = f"env runner {runner['env_runner']} on {runner['node']}"
            self._console.print(f"{where}, at {', '.join(runner['servers'])}", soft_wrap=True)

    def _tell_interrupted(self) -> None:
        self._console.print("stopping after this iteration; Ctrl-C again stops at once")


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name}: {' '.join(agents)}" for name, agents in groups.items())


def new_folder(simulator: str) -> Path:
    """``runs/<simulator>-<time>``, for a run that is not told where to go."""
    name = simulator.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
