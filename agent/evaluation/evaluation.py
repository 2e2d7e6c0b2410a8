"""One evaluation: from a checkpoint to tables, files and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import Progress

from agent.deeprm.observation import is_deeprm
from agent.evaluation import chart, pictures, tables
from agent.evaluation.arena import Arena
from agent.evaluation.heuristics import OPTIONS, textbook
from agent.evaluation.learned import LearnedPolicy, check_spaces
from agent.evaluation.policy import Policy, RandomPolicy
from agent.evaluation.request import Report, Request, ways_to_act
from agent.evaluation.rollout import Episodes, play
from agent.evaluation.seeds import evaluation_seeds
from agent.evaluation.summary import Summary, write_csv
from agent.evaluation.trajectories import Trajectories
from agent.training.algorithm import Interface, Simulators, look_at
from agent.training.ray_runtime import quiet
from agent.training.servers import server_addresses
from farsim.errors import InvalidArgument, SimulatorFault, SpaceMismatch, Unsupported

__all__ = ["Evaluation", "Request"]


class Evaluation:
    """Carries out a request, and tells what happens on ``console``."""

    def __init__(self, request: Request, console: Console) -> None:
        self._request = request
        self._report = Report(request, console)
        self._console = console
        self._manifest = request.checkpoint.manifest
        self._trajectories = Trajectories() if request.trajectories is not None else None

    def carry_out(self) -> list[Summary]:
        """Plays, prints tables, and writes files; what came out.

        Raises:
            FarsimError: the request cannot be carried out.
        """
        request = self._request
        if request.opponents or request.shuffle_messages:
            raise InvalidArgument(
                f"{request.checkpoint.path} was trained with one agent: it has no opponents, and "
                "hears no messages",
                str(request.checkpoint.path),
            )
        quiet()
        if request.mp4:
            pictures.check_mp4()
        with server_addresses(
            request.sims, self._manifest.simulator, request.local_servers, self._console
        ) as addresses:
            options = {**self._manifest.options, **request.options}
            simulators = Simulators(
                addresses, self._manifest.simulator, options, request.connection
            )
            interface = look_at(simulators)
            self._check(interface)
            arena = Arena(addresses, simulators.simulator, options, request.connection)
            request.out.mkdir(parents=True, exist_ok=True)
            deeprm = is_deeprm(interface.session_options)
            if deeprm:
                summaries = self._compare_loads(arena, interface)
            else:
                summaries = self._compare(arena, interface)
            write_csv(summaries, request.out / "evaluation.csv")
            self._report.tell_file("table", request.out / "evaluation.csv")
            if self._trajectories is not None and request.trajectories is not None:
                path = self._trajectories.write(request.out, request.trajectories)
                self._report.tell_file("transitions", path)
            self._film(arena)
        return summaries

    # -- playing --------------------------------------------------------------------------

    def _compare(self, arena: Arena, interface: Interface) -> list[Summary]:
        learned = self._learned()
        others: list[Policy] = [RandomPolicy(interface.action_space, self._request.seed)]
        with self._report.progress(len(learned) + len(others)) as progress:
            results = self._play(arena, learned, progress, record=True)
            results |= self._play(arena, others, progress, action_mask=False)
        summaries = [Summary.of(name, episodes) for name, episodes in results.items()]
        self._console.print(self._request.title, soft_wrap=True)
        self._console.print(tables.comparison(summaries))
        path = self._request.out / "evaluation.png"
        chart.draw_bars(summaries, path, self._request.title)
        self._report.tell_file("chart", path)
        return summaries

    def _compare_loads(self, arena: Arena, interface: Interface) -> list[Summary]:
        session_options = interface.session_options
        if session_options["jobs"] == "legacy" and "jobs" not in self._request.options:
            # The legacy generator has the same sequences whatever the seed: those of training.
            arena = arena.with_options({"jobs": "generated", "num_ex": 0})
        low, high = np.asarray(session_options["new_job_rate"], float).tolist()
        loads = sorted({*self._request.loads, *([low] if low == high else [])}) or [
            low,
            high,
        ]
        main = low if low == high else loads[len(loads) // 2]
        learned = self._learned()
        others = textbook(session_options, self._request.seed)
        summaries = []
        with self._report.progress(len(loads) * (len(learned) + len(others))) as progress:
            for load in loads:
                here = arena.with_options({"new_job_rate": [load, load]})
                results = self._play(here, learned, progress, record=load == main)
                results |= self._play(
                    here.with_options(OPTIONS), others, progress, action_mask=False
                )
                summaries += [
                    Summary.of(name, episodes, load) for name, episodes in results.items()
                ]
        self._console.print(f"{self._request.title}; chance of a new job {main:g}", soft_wrap=True)
        at_main = [summary for summary in summaries if summary.load == main]
        self._console.print(tables.comparison(at_main))
        if len(loads) > 1:
            self._console.print("mean job slowdown, by the chance of a new job in a time step")
            self._console.print(tables.slowdown_by_load(summaries))
        if any(tables.is_incomplete(summary) for summary in summaries):
            self._console.print(tables.INCOMPLETE_NOTE)
        path = self._request.out / "evaluation.png"
        chart.draw_loads(summaries, path, self._request.title)
        self._report.tell_file("chart", path)
        return summaries

    def _play(
        self,
        arena: Arena,
        policies: Sequence[Policy],
        progress: Progress,
        *,
        action_mask: bool | None = None,
        record: bool = False,
    ) -> dict[str, Episodes]:
        (task,) = progress.task_ids
        recorded = policies[0] if record and self._trajectories is not None else None

        def tick(policy: Policy, ended: int) -> None:
            progress.update(task, advance=ended, policy=policy.name)

        def observers(policy: Policy) -> list[Trajectories]:
            watching = policy is recorded and self._trajectories is not None
            return [self._trajectories] if watching else []  # type: ignore[list-item]

        return arena.play(
            policies,
            evaluation_seeds(self._request.seed, self._request.episodes),
            action_mask=self._manifest.action_mask if action_mask is None else action_mask,
            observers=observers,
            ticked=tick,
        )

    def _learned(self) -> list[Policy]:
        ways = ways_to_act(self._manifest.algo)
        return [LearnedPolicy(self._request.checkpoint, way, self._request.seed) for way in ways]

    def _film(self, arena: Arena) -> None:
        request = self._request
        policy = self._learned()[0]
        film = pictures.Film()
        seeds = evaluation_seeds(request.seed, 1)
        try:
            with arena.open(1, self._manifest.action_mask, render=True) as env:
                play(env, policy, seeds, [film])
        except (Unsupported, SimulatorFault) as error:
            if request.gif or request.mp4:
                raise
            if isinstance(error, SimulatorFault):
                self._console.print(f"no picture: {error}", soft_wrap=True)
            return  # None was asked for, and the simulator has none.
        self._report.write_film(film.frames)

    # -- around it ------------------------------------------------------------------------

    def _check(self, interface: Interface) -> None:
        manifest = self._manifest
        observation = interface.observation_space
        if manifest.action_mask:
            if not interface.has_action_mask:
                raise SpaceMismatch(
                    f"{self._request.checkpoint.path} was trained with action masks, and "
                    f"'{manifest.simulator}' has none with these options",
                    str(self._request.checkpoint.path),
                )
            observation = interface.masked_observation_space()
        check_spaces(self._request.checkpoint, observation, interface.action_space)
