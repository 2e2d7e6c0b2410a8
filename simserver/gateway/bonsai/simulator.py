"""Registered Bonsai simulators as the environments of a session."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farsim import spaces
from farsim.errors import FarsimError, SimulatorFault
from simserver.gateway.bonsai import config
from simserver.gateway.bonsai.kind import Kind
from simserver.gateway.bonsai.registered import Gone, Registered, State
from simserver.gateway.bonsai.schema import SchemaError
from simserver.gateway.bonsai.workspace import Workspace
from simserver.simulator import Batch, BatchedValue, BatchSimulator, GroupBatch, IntArray

logger = logging.getLogger(__name__)


class BonsaiSimulator(BatchSimulator):
    """One environment for each of ``dealt``; all of them work at once.

    A simulator that goes away fails its environment, and another takes its place when the
    environment's next episode starts.

    Args:
        kind: of simulator.
        workspace: where they come from and go back to.
        dealt: theirs; none for an object that only describes.
        options: a value for each of the kind's parameters.
    """

    def __init__(
        self,
        kind: Kind,
        workspace: Workspace,
        dealt: Sequence[Registered],
        options: Mapping[str, Any],
    ) -> None:
        self.parameters = kind.parameters  # type: ignore[misc]
        self.groups = (kind.group,)
        self.max_episode_steps = kind.rules.episode_steps
        self._kind, self._workspace = kind, workspace
        self._simulators: list[Registered | None] = list(dealt)
        count = len(dealt)
        self._options = [dict(options) for _ in range(count)]
        self._random = [
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence().spawn(count)
        ]
        #: The last state in JSON, and as observed.
        self._states: list[Any] = [None] * count
        self._seen: list[Any] = [None] * count
        self._steps = [0] * count
        try:
            for each in self._kind.fields:
                each.check(options[each.name])
        except ValueError:
            self.close()
            raise

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        numbers = envs.tolist()
        given = {
            each.name: spaces.unbatch(each.parameter.space, options[each.name], len(numbers))
            for each in self._kind.fields
            if each.name in options
        }
        for each in self._kind.fields:
            for value in given.get(each.name, ()):
                each.check(value)
        for name, values in given.items():
            for env, value in zip(numbers, values, strict=True):
                self._options[env][name] = value
        if seeds is not None:
            for env, seed in zip(numbers, seeds, strict=True):
                # SeedSequence takes no negative number; seeds are signed 64-bit ones.
                self._random[env] = np.random.Generator(np.random.PCG64(seed % 2**64))
        configurations, used = zip(*(self._configure(env) for env in numbers), strict=True)
        self._start(numbers, configurations)
        return Batch(
            [self._batch(numbers)],
            started=envs,
            episode_options={
                each.name: spaces.batch(each.parameter.space, [row[each.name] for row in used])
                for each in self._kind.fields
            },
        )

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        numbers = envs.tolist()
        chosen = spaces.unbatch(self._kind.group.action_space, actions[0], len(numbers))
        sent = [self._kind.action.to_json(action) for action in chosen]
        faults: dict[int, Exception] = {}
        # All are told before any is waited for.
        for env, action in zip(numbers, sent, strict=True):
            try:
                self._simulator(env).send("EpisodeStep", {"action": action})
            except SimulatorFault as fault:
                self._fail(env, fault, faults)
        reward = np.zeros(len(numbers))
        terminated, truncated = (np.zeros(len(numbers), np.bool_) for _ in range(2))
        for i, (env, action) in enumerate(zip(numbers, sent, strict=True)):
            if env not in faults:
                try:
                    reward[i], terminated[i], truncated[i] = self._advance(env, action)
                except Exception as fault:
                    self._fail(env, fault, faults)
            truncated[i] |= env in faults
        batch = self._batch(numbers)
        batch.reward, batch.terminated, batch.truncated = reward, terminated, truncated
        return Batch([batch], faults)

    def close(self) -> None:
        for env, simulator in enumerate(self._simulators):
            if simulator is not None:
                self._workspace.give_back(simulator)
            self._simulators[env] = None

    # -- episodes -----------------------------------------------------------------------------

    def _configure(self, env: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The next episode's configuration in JSON, and the parameters that give it again."""
        configuration, used = {}, {}
        for each in self._kind.fields:
            configuration[each.name], used[each.name] = each.draw(
                self._options[env][each.name], self._random[env]
            )
        if self._kind.rules.seed_field:
            configuration[self._kind.rules.seed_field] = config.seed(self._random[env])
        return configuration, used

    def _start(self, envs: list[int], configurations: Sequence[dict[str, Any]]) -> None:
        while True:
            self._replace_gone(envs)  # Raises when there is none left.
            simulators = [self._simulator(env) for env in envs]
            try:
                for simulator in simulators:
                    simulator.receive()
                    simulator.finish("Interrupted")
                for simulator, configuration in zip(simulators, configurations, strict=True):
                    simulator.receive()
                    simulator.send("EpisodeStart", {"config": configuration})
                for env, simulator in zip(envs, simulators, strict=True):
                    self._look(env, simulator.receive())
                    self._steps[env] = 0
                return
            except Gone as gone:
                # Another takes its place, and all of these episodes start once more.
                logger.warning("%s", gone)

    def _replace_gone(self, envs: list[int]) -> None:
        """Deals a simulator to each environment that has none.

        Raises:
            SimulatorFault: there is none to be had in time.
        """
        for env in envs:
            simulator = self._simulators[env]
            if simulator is None or simulator.has_gone():
                self._simulators[env] = None
                wait = self._workspace.waits.replace
                try:
                    (self._simulators[env],) = self._workspace.deal(self._kind, 1, wait)
                except FarsimError as error:
                    raise SimulatorFault(f"environment {env} has no simulator: {error}") from error

    def _advance(self, env: int, action: Any) -> tuple[float, bool, bool]:
        """The outcome of the action that has been sent."""
        simulator = self._simulator(env)
        state, previous = simulator.receive(), self._states[env]
        self._look(env, state)
        self._steps[env] += 1
        outcome = self._kind.judge(
            {
                "state": state.values,
                "previous": previous,
                "action": action,
                "step": self._steps[env],
                "halted": state.halted,
            }
        )
        if outcome[1] or outcome[2]:
            simulator.finish("Terminal" if outcome[1] else "EpisodeComplete")
        return outcome

    def _look(self, env: int, state: State) -> None:
        """Keeps what a simulator says.

        Raises:
            SimulatorFault: it says that it failed, or its state is not as it described it.
        """
        if state.error:
            raise SimulatorFault(f"the simulator says: {state.error}")
        try:
            self._seen[env] = self._kind.observed.from_json(state.values, "state")
        except SchemaError as error:
            raise SimulatorFault(error.message, error.subject) from error
        self._states[env] = state.values

    def _fail(self, env: int, fault: Exception, faults: dict[int, Exception]) -> None:
        logger.warning("environment %d failed: %s", env, fault)
        faults[env] = fault
        simulator = self._simulators[env]
        if isinstance(fault, Gone):
            self._simulators[env] = None
        elif simulator is not None:
            simulator.finish("InternalError")

    def _simulator(self, env: int) -> Registered:
        simulator = self._simulators[env]
        if simulator is None:
            raise SimulatorFault(f"environment {env} has no simulator")
        return simulator

    def _batch(self, envs: list[int]) -> GroupBatch:
        observed = [self._seen[env] for env in envs]
        return GroupBatch(spaces.batch(self._kind.observed.space, observed))
