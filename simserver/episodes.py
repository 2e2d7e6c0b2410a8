"""Episodes of a batch simulator: who is in one, who starts the next, and who has failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from farsim import spaces
from farsim.errors import EpisodeOver, InvalidOption, ProtocolError, SimulatorFault, Unsupported
from simserver import rows
from simserver.roster import Roster
from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    BoolArray,
    GroupBatch,
    IntArray,
)

logger = logging.getLogger(__name__)


class Episodes:
    """Keeps a simulator's environments in episodes as the client's autoreset mode asks.

    An exception in the simulator never leaves this class as anything but a fault of the
    environments it hit, or, from an explicit ``reset``, as an error.

    Args:
        make: makes the simulator, and makes it anew when all of it has failed.
        num_envs: how many environments ``make`` gives it.
        mode: one of the simulator's autoreset modes.
    """

    def __init__(
        self, make: Callable[[], BatchSimulator], num_envs: int, mode: AutoresetMode
    ) -> None:
        self._make = make
        self.num_envs = num_envs
        self.mode = mode
        self._simulator: BatchSimulator | None = make()
        self.groups = self._simulator.groups
        self._own = self._simulator.own_autoreset is not None
        self._reset_once = np.zeros(num_envs, np.bool_)
        self._every_reset = False
        #: Who is in an episode, who is to act, and what they saw last.
        self.roster = Roster(self.groups, num_envs)
        #: Environments lost with a failed simulator that no reply has told of yet.
        self._lost: dict[int, Exception] = {}
        #: Per-episode options by environment, to give again to a simulator made anew.
        self._options: dict[int, dict[str, Any]] = {}
        #: Environments of a simulator made anew that have not been given theirs again.
        self._forgotten: set[int] = set()

    @property
    def simulator(self) -> BatchSimulator:
        """The simulator, made anew if the last one has failed."""
        if self._simulator is None:
            self._simulator = self._make()
            self._forgotten = set(self._options)
        return self._simulator

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
        option_spaces: Mapping[str, Any],
    ) -> Batch:
        """Starts new episodes; see ``BatchSimulator.reset``.

        Raises:
            InvalidOption: the simulator refused the options.
            SimulatorFault: it failed; the environments named are without an episode.
        """
        self._whole(envs, "reset")
        try:
            batch = self._simulator_reset(envs, seeds, options)
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        except SimulatorFault:
            self.abandon(envs)
            raise
        except Exception as error:
            self.abandon(envs)
            raise SimulatorFault(f"reset failed: {type(error).__name__}: {error}") from error
        for name, values in options.items():
            single = spaces.unbatch(option_spaces[name], values, len(envs))
            for env, value in zip(envs.tolist(), single, strict=True):
                self._options.setdefault(env, {})[name] = value
        self._begin(envs, batch)
        return batch

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        """Advances environments, or starts their next episodes where the mode says so.

        Raises:
            ProtocolError: an environment has never been reset.
            EpisodeOver: an episode is over, and the mode is ``DISABLED``.
        """
        self._whole(envs, "step")
        if not self._every_reset and not self._reset_once[envs].all():
            raise ProtocolError(
                f"environments {envs[~self._reset_once[envs]].tolist()} have no episode: "
                "send a reset for them before the first step"
            )
        self.roster.mark()
        if self._own and self.mode is not AutoresetMode.DISABLED:
            return self._step_own(envs, actions)
        over = lost = None
        if self._lost or not self.roster.all_in_episode:
            over = self.roster.over(envs)
            if self._lost:
                lost = np.isin(envs, list(self._lost))
                over &= ~lost
            if self.mode is AutoresetMode.DISABLED and over.any():
                raise EpisodeOver(
                    f"the episodes of environments {envs[over].tolist()} are over: "
                    "reset them, or open the session with an autoreset mode"
                )
        if self._own:
            return self._step_own(envs, actions)
        if over is None or (lost is None and not over.any()):
            batch = self._advance(envs, actions)
        else:
            batch = self._step_by_state(envs, actions, over, lost)
        if self.mode is AutoresetMode.SAME_STEP:
            batch = self._restart_ended(envs, batch)
        return batch

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        """Puts environments into saved states; their episodes go on from there."""
        batch = self.simulator.load_state(envs, states)
        self._begin(envs, batch)
        return batch

    def abandon(self, envs: IntArray) -> None:
        """Leaves ``envs`` without an episode, as before their first reset."""
        self._reset_once[envs] = self._every_reset = False
        self.roster.end(envs)

    def close(self) -> None:
        """Frees the simulator, whatever it says to that."""
        if self._simulator is not None:
            simulator, self._simulator = self._simulator, None
            try:
                simulator.close()
            except Exception:
                logger.exception("the simulator failed to close")

    # -- one kind of environment at a time ------------------------------------------------

    def _advance(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        try:
            batch = self.simulator.step(envs, actions)
            self.roster.note(envs, batch)
        except Exception as error:
            logger.warning("a step of environments %s failed", envs.tolist(), exc_info=True)
            return self.fail(envs, error)
        if batch.faults:
            self.roster.end(np.array(sorted(batch.faults)))
        return batch

    def _restart(self, envs: IntArray) -> Batch:
        """Starts the next episodes; environments that fail to are faults and stay over."""
        try:
            batch = self._simulator_reset(envs, None, {})
            self._begin(envs, batch)
        except Exception as error:
            if len(envs) == 1:
                logger.warning("a reset of environment %d failed", envs[0], exc_info=True)
                return self._failed(envs, error)
            return self._join([(env, self._kept(env, self._restart(env))) for env in _each(envs)])
        if batch.faults:
            self.roster.end(np.array(sorted(batch.faults)))
        return batch

    def _simulator_reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        simulator = self.simulator
        if self._own or not self._forgotten or self._forgotten.isdisjoint(envs.tolist()):
            return simulator.reset(envs, seeds, options)
        parts = []
        for i, env in enumerate(_each(envs)):
            begun = self._reset_as_before(simulator, env, seeds and seeds[i : i + 1], options, i)
            parts.append((env, self._kept(env, begun)))
        self._forgotten.difference_update(envs.tolist())
        return self._join(parts)

    def _reset_as_before(
        self,
        simulator: BatchSimulator,
        env: IntArray,
        seeds: Sequence[int] | None,
        given: Mapping[str, BatchedValue],
        row: int,
    ) -> Batch:
        declared = {parameter.name: parameter.space for parameter in simulator.parameters}
        options = {
            name: spaces.batch(declared[name], [value])
            for name, value in self._options.get(int(env[0]), {}).items()
        }
        index = np.array([row])
        options |= {name: spaces.take(declared[name], v, index) for name, v in given.items()}
        return simulator.reset(env, seeds, options)

    def fail(self, envs: IntArray, error: Exception) -> Batch:
        """The whole simulator has failed in a step of ``envs``: all its episodes end.

        Returns:
            The rows of ``envs``, as faults; the others' come with their next step.
        """
        self.close()
        running = np.flatnonzero(~self.roster.over(np.arange(self.num_envs)))
        for env in np.setdiff1d(running, envs).tolist():
            self._lost.setdefault(env, error)
        self.roster.forget_step()
        return self._failed(envs, error)

    def _failed(self, envs: IntArray, error: Exception | Mapping[int, Exception]) -> Batch:
        """Rows that end the episodes of ``envs`` with a fault."""
        self.roster.end(envs)
        groups = []
        told = self.roster.last_rows(envs)
        for group, (index, observation) in zip(self.groups, told, strict=True):
            masks = (
                spaces.full_masks(group.action_space, len(index)) if group.has_action_mask else ()
            )
            groups.append(
                GroupBatch(
                    observation=observation,
                    reward=np.zeros(len(index)),
                    terminated=np.zeros(len(index), np.bool_),
                    truncated=np.ones(len(index), np.bool_),
                    action_masks=masks,
                    rows=index,
                )
            )
        faults = {
            env: error if isinstance(error, Exception) else error[env] for env in envs.tolist()
        }
        return Batch(groups, faults)

    def _step_own(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        """Steps a simulator that does its own autoreset, but not after it has failed."""
        if self._simulator is None:
            return self._as_step(envs, self._restart(envs))
        batch = self._advance(envs, actions)
        if batch.faults and self.mode is AutoresetMode.SAME_STEP:
            return self._restart_ended(envs, batch)
        return batch

    # -- all kinds together ---------------------------------------------------------------

    def _step_by_state(
        self,
        envs: IntArray,
        actions: Sequence[BatchedValue],
        over: BoolArray,
        lost: BoolArray | None,
    ) -> Batch:
        parts = []
        running = np.flatnonzero(~over if lost is None else ~(over | lost))
        if lost is not None and lost.any():
            gone = envs[lost]
            parts.append((gone, self._failed(gone, {e: self._lost.pop(e) for e in gone.tolist()})))
        if running.size:
            chosen = [
                spaces.take(group.action_space, action, rows.of_environments(group, running))
                for group, action in zip(self.groups, actions, strict=True)
            ]
            named = envs[running]
            parts.append((named, self._advance(named, chosen)))
        next_up = envs[over]
        if next_up.size:
            parts = [(named, self._kept(named, part)) for named, part in parts]
            # A simulator that failed in the step above is made anew by this reset.
            parts.append((next_up, self._restart(next_up)))
        return self._as_step(envs, self._join(parts))

    def _kept(self, envs: IntArray, batch: Batch) -> Batch:
        """``batch`` with copies of what the simulator may reuse in its next call."""
        groups = [
            rows.copied(group, part, len(rows.of_batch(group, part, envs)))
            for group, part in zip(self.groups, batch.groups, strict=True)
        ]
        return replace(batch, groups=groups)

    def _kept_with_finals(self, envs: IntArray, batch: Batch, places: IntArray) -> Batch:
        """``batch`` to keep while those of ``envs`` that have ended, at ``places``, begin anew.

        In groups with a row for every agent, only the last observations of those are kept; the
        roster has the others.
        """
        ended, groups = envs[places], []
        for group, part in zip(self.groups, batch.groups, strict=True):
            if part.rows is None and part.acting is None:
                at, final = (rows.of_environments(group, some) for some in (places, ended))
                groups.append(rows.with_finals(group, part, at, final))
            else:
                groups.append(rows.copied(group, part, len(rows.of_batch(group, part, envs))))
        return Batch(groups, batch.faults, batch.started, batch.episode_options)

    def _as_step(self, envs: IntArray, batch: Batch) -> Batch:
        """``batch`` with rewards and flags also where all of ``envs`` have just started."""
        batch.groups = [
            part
            if part.reward is not None
            else rows.started(part, len(rows.of_batch(group, part, envs)))
            for group, part in zip(self.groups, batch.groups, strict=True)
        ]
        return batch

    def _restart_ended(self, envs: IntArray, batch: Batch) -> Batch:
        """SAME_STEP: starts the next episodes of those that ended just now."""
        if self.roster.all_in_episode:
            return batch
        places = np.flatnonzero(self.roster.over(envs))
        if not places.size:
            return batch
        ended = envs[places]
        batch = self._kept_with_finals(envs, batch, places)
        after = self._restart(ended)
        keep = np.setdiff1d(ended, list(after.faults)) if after.faults else ended
        groups = []
        for number, (group, before, fresh) in enumerate(
            zip(self.groups, batch.groups, after.groups, strict=True)
        ):
            if before.observation is None:
                at = rows.of_environments(group, places)
                # That of the step, except where the next episode has started.
                before.observation = self.roster.last_seen(number, envs)
                if not after.faults and rows.replace_ended(before, fresh, at):
                    groups.append(before)
                    continue
                before.observation = spaces.put(
                    group.observation_space, before.observation, at, before.final_observation
                )
            index = rows.of_batch(group, before, envs)
            is_final = np.isin(index, rows.of_environments(group, keep))
            final, going_on = np.flatnonzero(is_final), np.flatnonzero(~is_final)
            fresh_rows = rows.of_batch(group, fresh, ended)
            kept = np.flatnonzero(np.isin(fresh_rows, rows.of_environments(group, keep)))
            start = rows.started(rows.select(group, fresh, fresh_rows, kept), len(kept))
            parts = [rows.select(group, before, index, going_on), start]
            left = np.setdiff1d(index[final], fresh_rows[kept])
            if len(left):
                parts.append(rows.without_episode(group, left))
            # Merged before ended rows get their flags, by which they would seem to be over.
            merged = rows.merge(group, parts)
            at = np.searchsorted(merged.rows, index[final])  # type: ignore[arg-type]
            merged.reward[at] = before.reward[final]  # type: ignore[index]
            merged.terminated[at] = before.terminated[final]  # type: ignore[index]
            merged.truncated[at] = before.truncated[final]  # type: ignore[index]
            merged.final_rows = index[final]
            merged.final_observation = spaces.take(
                group.observation_space, before.observation, final
            )
            merged.final_infos = rows.select_infos(before.infos, final, len(index))
            groups.append(merged)
        return Batch(
            groups,
            {**batch.faults, **after.faults},
            *self._join_started([part for part in (batch, after) if part.started is not None]),
        )

    def _join(self, parts: list[tuple[IntArray, Batch]]) -> Batch:
        if len(parts) == 1:
            return parts[0][1]
        groups = []
        for number, group in enumerate(self.groups):
            pieces = []
            for envs, part in parts:
                piece = part.groups[number]
                piece.rows = rows.of_batch(group, piece, envs)
                pieces.append(piece)
            groups.append(rows.merge(group, pieces))
        faults = {env: fault for _, part in parts for env, fault in part.faults.items()}
        begun = [part for _, part in parts if part.started is not None]
        return Batch(groups, faults, *self._join_started(begun))

    def _join_started(self, parts: list[Batch]) -> tuple[IntArray | None, dict[str, Any]]:
        if not parts:
            return None, {}
        if len(parts) == 1:
            return parts[0].started, parts[0].episode_options
        begun = [part.started for part in parts if part.started is not None]
        started = np.concatenate(begun)
        order = np.argsort(started)
        declared = {parameter.name: parameter.space for parameter in self.simulator.parameters}
        options = {}
        for name in parts[0].episode_options:
            values = [part.episode_options[name] for part in parts]
            pieces = list(zip(values, map(len, begun), strict=True))
            options[name] = spaces.take(
                declared[name], spaces.concatenate(declared[name], pieces), order
            )
        return started[order], options

    # -- bookkeeping ----------------------------------------------------------------------

    def _begin(self, envs: IntArray, batch: Batch) -> None:
        if not self._every_reset:
            self._reset_once[envs] = True
            self._every_reset = bool(self._reset_once.all())
        for env in envs.tolist() if self._lost else ():
            self._lost.pop(env, None)
        self.roster.begin(envs, batch)

    def _whole(self, envs: IntArray, request: str) -> None:
        if self._own and request == "step" and len(envs) != self.num_envs:
            raise Unsupported(
                "this simulator steps all its environments at once: leave out which ones"
            )


def _each(envs: IntArray) -> list[IntArray]:
    """``envs`` one by one."""
    return [envs[i : i + 1] for i in range(len(envs))]
