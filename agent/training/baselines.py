"""What other policies come to, for lines beside a learning curve."""

from __future__ import annotations

from agent.training.interface import Interface, Simulators

#: By the policy's name, its values by column of ``progress.csv``.
Baselines = dict[str, dict[str, float]]

#: Enough for a line in a picture, and a matter of seconds.
_EPISODES = 100
_PARTICLE_EPISODES = 256


def play_baselines(simulators: Simulators, interface: Interface) -> Baselines:
    """Plays scripted policies, where there are some, and chance.

    They are for DeepRM and Particle, of which many environments cost little; empty for others.

    Args:
        simulators: where to play.
        interface: what is there.
    """
    from agent.deeprm.observation import is_deeprm
    from agent.particle.sight import scenario_of

    if is_deeprm(interface.session_options):
        return _deeprm(simulators, interface)
    if scenario_of(interface.simulator):
        return _particle(simulators, interface)
    return {}


def _deeprm(simulators: Simulators, interface: Interface) -> Baselines:
    from agent.evaluation.arena import Arena
    from agent.evaluation.heuristics import OPTIONS, textbook
    from agent.evaluation.seeds import evaluation_seeds
    from agent.evaluation.summary import Summary

    shown = ("SJF", "Packer", "hold long jobs")
    policies = [p for p in textbook(interface.session_options, 0) if p.name in shown]
    arena = Arena(
        simulators.addresses, simulators.simulator, simulators.options, simulators.connection
    ).with_options(OPTIONS)
    results = arena.play(policies, evaluation_seeds(0, _EPISODES))
    summaries = [Summary.of(name, episodes) for name, episodes in results.items()]
    return {
        summary.policy: {
            "return_mean": summary.total_return.mean,
            "info/slowdown": summary.slowdown.mean,
        }
        for summary in summaries
    }


def _particle(simulators: Simulators, interface: Interface) -> Baselines:
    from agent.evaluation.multi_agent.arena import TeamArena
    from agent.evaluation.multi_agent.policy import LineUp, RandomGroup, ScriptedGroup
    from agent.evaluation.multi_agent.summary import TeamSummary
    from agent.evaluation.seeds import evaluation_seeds
    from agent.particle.controllers import scripted

    groups = interface.groups
    found = scripted(interface.simulator, interface.session_options, groups)
    line_ups = [
        LineUp(name, [ScriptedGroup(controller) for controller in controllers])
        for name, controllers in found.items()
    ]
    by_chance = [RandomGroup(group, 0, number) for number, group in enumerate(groups)]
    line_ups.append(LineUp("random", by_chance))
    results = TeamArena(simulators).play(line_ups, evaluation_seeds(0, _PARTICLE_EPISODES))
    baselines = {}
    for line_up, episodes in zip(line_ups, results, strict=True):
        summary = TeamSummary.of(line_up.name, episodes)
        columns = {"return_mean": summary.total_return.mean}
        if len(summary.groups) > 1:
            for name, group in summary.groups.items():
                columns[f"group_return/{name}"] = group.each.mean
        baselines[line_up.name] = columns
    return baselines
