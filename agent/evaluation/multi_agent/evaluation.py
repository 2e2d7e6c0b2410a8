"""One evaluation with several agents: from a checkpoint to tables, files and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from agent.evaluation import pictures
from agent.evaluation.multi_agent import chart, opponents, tables
from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.learned import LearnedGroup
from agent.evaluation.multi_agent.messages import (
    SUCCESS_DISTANCE,
    Understanding,
    understanding,
    with_shuffled_messages,
)
from agent.evaluation.multi_agent.policy import GroupPolicy, LineUp, RandomGroup, ScriptedGroup
from agent.evaluation.multi_agent.recording import TeamFilm, TeamTrajectories
from agent.evaluation.multi_agent.rollout import TeamEpisodes, play
from agent.evaluation.multi_agent.summary import TeamSummary, write_rows
from agent.evaluation.request import Report, Request, ways_to_act
from agent.evaluation.seeds import evaluation_seeds
from agent.particle.controllers import scripted
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import Checkpoint
from agent.training.interface import Interface, Simulators, look_at
from agent.training.ray_runtime import quiet
from agent.training.servers import server_addresses
from farsim.errors import SimulatorFault, Unsupported

#: The name of a folder with checkpoints, in a run's.
_CHECKPOINTS = "checkpoints"


class MultiAgentEvaluation:
    """Carries out a request, and tells what happens on ``console``."""

    def __init__(self, request: Request, console: Console) -> None:
        self._request = request
        self._report = Report(request, console)
        self._console = console
        self._manifest = request.checkpoint.manifest
        self._trajectories = TeamTrajectories() if request.trajectories is not None else None

    def carry_out(self) -> list[TeamSummary]:
        """Plays, prints tables, and writes files; what came out of the comparison.

        Raises:
            FarsimError: the request cannot be carried out.
        """
        request = self._request
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
            # Before anything is played, which takes a while.
            learned = self._learned(interface)
            sides = self._sides(interface, learned[0])
            deaf = self._with_shuffled_messages(interface, learned)
            arena = TeamArena(simulators)
            request.out.mkdir(parents=True, exist_ok=True)
            others = [*self._scripted(interface), self._random(interface)]
            results = self._play(arena, [*learned, *others], recorded=learned[0])
            summaries = self._compare([*learned, *others], results)
            if sides:
                self._cross(arena, interface, sides)
            if deaf:
                self._test_messages(arena, [*learned, *others], results, deaf)
            if self._trajectories is not None and request.trajectories is not None:
                for path in self._trajectories.write(request.out, request.trajectories):
                    self._report.tell_file("transitions", path)
            self._film(arena, learned[0])
        return summaries

    # -- who plays ------------------------------------------------------------------------

    def _learned(self, interface: Interface) -> list[LineUp]:
        algo = self._manifest.algo
        return [
            LineUp(
                f"{algo} {'greedy' if greedy else 'sampled'}",
                _learned(self._request.checkpoint, interface, greedy, self._request.seed),
            )
            for greedy in ways_to_act(algo)
        ]

    def _scripted(self, interface: Interface) -> list[LineUp]:
        found = scripted(interface.simulator, interface.session_options, interface.groups)
        return [
            LineUp(name, [ScriptedGroup(controller) for controller in controllers])
            for name, controllers in found.items()
        ]

    def _random(self, interface: Interface) -> LineUp:
        groups = enumerate(interface.groups)
        seed = self._request.seed
        return LineUp("random", [RandomGroup(group, seed, number) for number, group in groups])

    def _sides(self, interface: Interface, own: LineUp) -> list[opponents.Side]:
        """Who can play for whom; empty if there is nobody to choose."""
        names = [group.name for group in interface.groups]
        wishes = opponents.parse(self._request.opponents, names)
        if not wishes:
            return []

        def make(what: str, groups: Sequence[str]) -> tuple[str, Mapping[str, GroupPolicy]]:
            if what == opponents.RANDOM:
                line_up = self._random(interface)
            elif what == opponents.SCRIPTED:
                found = self._scripted(interface)
                if not found:
                    raise Unsupported(
                        f"there is no scripted controller for '{interface.simulator}'", what
                    )
                line_up = found[0]
            else:
                return self._opponent(Path(what), interface, groups)
            return line_up.name, dict(zip(names, line_up.policies, strict=True))

        label = _label(self._request.checkpoint)
        policies = dict(zip(names, own.policies, strict=True))
        return opponents.sides_of(wishes, interface.groups, (label, policies), make)

    def _opponent(
        self, path: Path, interface: Interface, groups: Sequence[str]
    ) -> tuple[str, Mapping[str, GroupPolicy]]:
        checkpoint = checkpoints.find(path)
        greedy = ways_to_act(checkpoint.manifest.algo)[0]
        return _label(checkpoint), {
            group.name: LearnedGroup(checkpoint, group, greedy, self._request.seed)
            for group in interface.groups
            if group.name in groups
        }

    def _with_shuffled_messages(
        self, interface: Interface, line_ups: Sequence[LineUp]
    ) -> list[LineUp]:
        if not self._request.shuffle_messages:
            return []
        return [
            with_shuffled_messages(
                line_up,
                interface.simulator,
                interface.session_options,
                interface.groups,
                self._request.seed,
            )
            for line_up in [*line_ups, *self._scripted(interface)]
        ]

    # -- playing --------------------------------------------------------------------------

    def _play(
        self, arena: TeamArena, line_ups: Sequence[LineUp], recorded: LineUp | None = None
    ) -> list[TeamEpisodes]:
        seeds = evaluation_seeds(self._request.seed, self._request.episodes)
        with self._report.progress(len(line_ups)) as progress:
            (task,) = progress.task_ids

            def tick(line_up: LineUp, ended: int) -> None:
                progress.update(task, advance=ended, policy=line_up.name)

            def observers(line_up: LineUp) -> list[TeamTrajectories]:
                watching = line_up is recorded and self._trajectories is not None
                return [self._trajectories] if watching else []  # type: ignore[list-item]

            return arena.play(line_ups, seeds, observers=observers, ticked=tick)

    def _compare(
        self, line_ups: Sequence[LineUp], results: Sequence[TeamEpisodes]
    ) -> list[TeamSummary]:
        summaries = [
            TeamSummary.of(line_up.name, episodes)
            for line_up, episodes in zip(line_ups, results, strict=True)
        ]
        request = self._request
        self._console.print(request.title, soft_wrap=True)
        self._console.print(tables.returns(summaries))
        infos = tables.infos(summaries)
        if infos is not None:
            self._console.print(infos)
        write_rows([summary.row() for summary in summaries], request.out / "evaluation.csv")
        self._report.tell_file("table", request.out / "evaluation.csv")
        path = request.out / "evaluation.png"
        chart.draw_returns(summaries, path, request.title)
        self._report.tell_file("chart", path)
        return summaries

    def _cross(
        self, arena: TeamArena, interface: Interface, sides: Sequence[opponents.Side]
    ) -> None:
        matches = list(opponents.matches(sides, interface.groups))
        results = self._play(arena, [match.line_up for match in matches])
        summaries = [
            TeamSummary.of(match.line_up.name, episodes)
            for match, episodes in zip(matches, results, strict=True)
        ]
        rows = [
            opponents.row(sides, match, summary)
            for match, summary in zip(matches, summaries, strict=True)
        ]
        if len(sides) == 2:
            for group in interface.groups:
                each = ", each" if len(group.agents) > 1 else ""
                self._console.print(f"return of {group.name}{each}, by who plays")
                cells = {
                    (match.labels[0], match.labels[1]): summary.groups[group.name].each
                    for match, summary in zip(matches, summaries, strict=True)
                }
                self._console.print(tables.cross(sides[0].name, sides[1].name, cells))
        else:
            self._console.print(f"by who plays: {' / '.join(side.name for side in sides)}")
            self._console.print(tables.returns(summaries))
        path = self._request.out / "opponents.csv"
        write_rows(rows, path)
        self._report.tell_file("opponents", path)

    def _test_messages(
        self,
        arena: TeamArena,
        line_ups: Sequence[LineUp],
        results: Sequence[TeamEpisodes],
        deaf: Sequence[LineUp],
    ) -> None:
        near = self._request.success_distance
        near = SUCCESS_DISTANCE if near is None else near
        shuffled = self._play(arena, deaf)
        found: list[Understanding] = []
        for place, (line_up, episodes) in enumerate(zip(line_ups, results, strict=True)):
            found += understanding(line_up.name, False, episodes, near)
            if place < len(deaf):
                found += understanding(line_up.name, True, shuffled[place], near)
        self._console.print(
            f"with their own messages, and with those of other episodes; success is to end nearer "
            f"than {near:g} to the goal, or to name it",
            soft_wrap=True,
        )
        self._console.print(tables.understanding(found))
        path = self._request.out / "messages.csv"
        write_rows([one.row() for one in found], path)
        self._report.tell_file("messages", path)

    def _film(self, arena: TeamArena, line_up: LineUp) -> None:
        request = self._request
        film = TeamFilm()
        try:
            with arena.open(1, render=True) as env:
                play(env, line_up, evaluation_seeds(request.seed, 1), [film])
        except (Unsupported, SimulatorFault) as error:
            if request.gif or request.mp4:
                raise
            if isinstance(error, SimulatorFault):
                self._console.print(f"no picture: {error}", soft_wrap=True)
            return  # None was asked for, and the simulator has none.
        self._report.write_film(film.frames)


def _learned(
    checkpoint: Checkpoint, interface: Interface, greedy: bool, seed: int
) -> list[GroupPolicy]:
    return [LearnedGroup(checkpoint, group, greedy, seed) for group in interface.groups]


def _label(checkpoint: Checkpoint) -> str:
    """The run's name, or that of the checkpoint's folder if it is alone."""
    folder = checkpoint.path.absolute()
    return folder.parent.parent.name if folder.parent.name == _CHECKPOINTS else folder.name
