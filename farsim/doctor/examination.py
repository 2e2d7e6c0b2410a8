"""Examines servers: the way to each, then its steps."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.check.subject import Subject
from farsim.doctor import causes
from farsim.doctor.findings import Cause, Diagnosis, Finding, Step, Stopped
from farsim.doctor.greeting import Greeting, simulator_of
from farsim.doctor.measuring import Measured, Probe
from farsim.doctor.policies import examine_policy
from farsim.doctor.wire import Wire
from farsim.errors import FarsimError
from farsim.v1 import simulator_pb2 as pb

#: How many times the environments the second session has, to see whether steps cost the same.
_LARGER = 4
#: How long a call waits for a server that does not answer, at most, in seconds.
_CALL_SECONDS = 5.0


@dataclass
class Wishes:
    """What to look at.

    Attributes:
        connection: how to reach the servers.
        simulator: which of theirs; empty for the first.
        envs: environments in a session.
        options: of the simulator, by name, as people write them.
        seconds: to measure for, and to wait for one reply.
    """

    connection: ConnectionOptions
    simulator: str = ""
    envs: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 5.0


class Patient:
    """One server.

    Args:
        address: host:port.
        wishes: what to look at.
    """

    def __init__(self, address: str, wishes: Wishes) -> None:
        self.diagnosis = Diagnosis(address)
        self.simulator: pb.SimulatorDescription | None = None
        #: Its steps while the other servers rest; None if there were none.
        self.alone: Measured | None = None
        self._wishes = wishes
        self._server = pb.DescribeReply()

    def examine(self) -> None:
        """Walks to the server, and measures steps if it is reached."""
        steps, findings = self.diagnosis.steps, self.diagnosis.findings
        wait = min(_CALL_SECONDS, self._wishes.seconds)
        wire = Wire(self.diagnosis.address, self._wishes.connection, wait)
        greeting = Greeting(self.diagnosis.address, self._wishes.connection, wait)
        try:
            wire.walk(steps)
            description = greeting.walk(steps)
            round_trip = wire.round_trip
            if not isinstance(description, pb.DescribeReply):
                examine_policy(self.diagnosis, description, self._wishes.connection, round_trip)
            else:
                self._server = description
                self.simulator = simulator_of(description, self._wishes.simulator, steps)
                self._measure(round_trip)
        except Stopped as stopped:
            steps.append(Step(stopped.name, stopped.finding.cause.value, False))
            findings.insert(0, stopped.finding)
        findings += greeting.remarks

    def probe(self, envs: int, steps: list[Step]) -> Probe:
        """A session with it; there must be a simulator.

        Raises:
            Stopped: there is none to be had.
        """
        if self.simulator is None:
            raise ValueError(f"{self.diagnosis.address} has not been reached")
        # A session's stream has one deadline for its life: opening, steps and all.
        wishes = self._wishes
        subject = Subject(
            self.diagnosis.address,
            wishes.connection,
            self._server,
            self.simulator,
            envs,
            wishes.options,
            seconds=6 * wishes.seconds,
        )
        try:
            _ = subject.options
        except FarsimError as error:
            raise Stopped(
                "open", Finding(Cause.OPTIONS, str(error), "give --option other values")
            ) from error
        return Probe(subject, wishes.seconds, steps)

    def _measure(self, round_trip: float) -> None:
        diagnosis = self.diagnosis
        measured = self._session(self._wishes.envs, diagnosis.steps)
        diagnosis.steps.append(
            Step("step", f"{len(measured.whole)} steps, {measured.rate:,.0f} environment steps/s")
        )
        self.alone = measured
        larger = None
        try:
            larger = self._session(_LARGER * measured.envs, [])
            if larger.envs < 2 * measured.envs:
                larger = None  # As many as the server has room for: no more than before.
        except Stopped as stopped:
            diagnosis.notes.append(
                f"with {_LARGER * measured.envs} environments: {stopped.finding.evidence}"
            )
        diagnosis.shares = causes.shares(measured, round_trip)
        if not measured.simulator:
            diagnosis.notes.append(
                "the server does not say how long it worked (SimReply.timing): its codec and the "
                "transfer count as simulator"
            )
        sizes = f"{measured.sent:,} bytes to a step, {measured.received:,} bytes back"
        diagnosis.notes.append(f"{sizes}; round trip {round_trip * 1e3:.2f} ms")
        if larger is not None:
            diagnosis.notes.append(
                f"{measured.rate:,.0f} environment steps/s with {measured.envs} environments, "
                f"{larger.rate:,.0f} with {larger.envs}"
            )
        found = causes.of_steps(measured, diagnosis.shares, round_trip, larger)
        remarks = causes.of_remarks(measured)
        failing = [f for f in remarks if f.cause is Cause.SIMULATOR_FAILS]
        diagnosis.findings += [*failing, *found, *(f for f in remarks if f not in failing)]

    def _session(self, envs: int, steps: list[Step]) -> Measured:
        probe = self.probe(envs, steps)
        try:
            return probe.step_for_a_while()
        finally:
            probe.close()


def examine(addresses: Sequence[str], wishes: Wishes) -> tuple[list[Diagnosis], list[Finding]]:
    """Examines servers one by one, then compares them and lets them work together.

    Returns:
        What was found at each, and what was found of them all.
    """
    patients = [Patient(address, wishes) for address in addresses]
    for patient in patients:
        patient.examine()
    well = [patient for patient in patients if patient.alone is not None]
    common = list(_differences([patient for patient in patients if patient.simulator is not None]))
    if len(well) > 1:
        alone = [patient.alone for patient in well if patient.alone is not None]
        crowded = causes.of_several(alone, _together(well, wishes))
        common = [crowded, *common] if crowded else common
    return [patient.diagnosis for patient in patients], common


def _together(patients: Sequence[Patient], wishes: Wishes) -> list[Measured]:
    """Steps of each while all of them work; none if one of them does not."""
    probes: list[Probe] = []
    done = threading.Event()
    try:
        for patient in patients:
            probes.append(patient.probe(wishes.envs, []))

        def run(probe: Probe) -> Measured:
            try:
                return probe.step_for_a_while(done.is_set)
            finally:
                # Whoever is alone at the end would seem fast.
                done.set()

        with ThreadPoolExecutor(len(probes)) as pool:
            return list(pool.map(run, probes))
    except Stopped:
        return []
    finally:
        for probe in probes:
            probe.close()


def _differences(patients: Sequence[Patient]) -> list[Finding]:
    """Where the others' simulators differ from the first one's."""
    found = []
    for other in patients[1:]:
        first = patients[0]
        told = _between(first.simulator, other.simulator)
        if told:
            found.append(
                Finding(
                    Cause.DIFFERENT,
                    f"{first.diagnosis.address} and {other.diagnosis.address}: {'; '.join(told)}",
                    "serve the same simulator with the same options everywhere",
                )
            )
    return found


def _between(
    one: pb.SimulatorDescription | None, other: pb.SimulatorDescription | None
) -> list[str]:
    if one is None or other is None:
        return []
    if one.name != other.name:
        return [f"{one.name} is not {other.name}"]
    if [group.agents for group in one.groups] != [group.agents for group in other.groups]:
        return ["their agents"]
    told = []
    for here, there in zip(one.groups, other.groups, strict=True):
        for kind in ("observation_space", "action_space"):
            told += spaces.differences(
                spaces.from_proto(getattr(here, kind)),
                spaces.from_proto(getattr(there, kind)),
                kind,
            )
    return told
