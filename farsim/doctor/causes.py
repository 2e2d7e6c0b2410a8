"""From measured times to shares, and from shares to the likeliest cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farsim.doctor.findings import Cause, Finding, Share
from farsim.doctor.measuring import Measured

#: A part with less of a step's time than this is no cause.
_NOTEWORTHY = 0.25
#: A request that nobody has to work for takes a process with time for it this long, in seconds;
#: a busy one answers when the others' turns are over, of 5 ms each in Python, several times.
_IDLE_SECONDS = 1e-2
#: Of idle requests, in percent: if these few are slow, all are.
_QUICKEST = 10
#: Round trips from here on are those of a network, in seconds.
_LONG_SECONDS = 4e-3
#: Smaller messages are not large, in bytes; a faster link is not slow, in bytes a second.
_LARGE_BYTES, _SLOW_LINK = 100_000, 4e7
#: Four times the environments give so many times the steps: then a step's cost is fixed.
_GAIN = 1.8
#: Faster steps of a whole session, and of one environment, are no reason to complain, in seconds.
_SLOW_STEP, _SLOW_ENVIRONMENT = 2e-3, 5e-5
#: Servers that take so many times as long together as alone stand in each other's way.
_CROWDED = 1.6


def shares(measured: Measured, round_trip: float) -> list[Share]:
    """Where a step's time goes, the whole step last.

    What the server says is taken from it; an idle request less the network's round trip is the
    queue (threads, the interpreter, other sessions); the rest is the network. A server that does
    not say leaves the simulator, its codec and the transfer together as "simulator".

    Args:
        measured: at least one step.
        round_trip: of the network alone, seconds.
    """
    whole, client = np.array(measured.whole), np.array(measured.client_codec)
    typical = max(float(np.median(measured.idle)) - round_trip, 0.0)
    if len(measured.simulator) == len(whole):
        simulator = np.array(measured.simulator)
        codec = client + np.array(measured.server_codec)
        rest = np.maximum(whole - simulator - codec, 0)
        # A step is never on its way for less than a round trip.
        queue = np.clip(rest - round_trip, 0, typical)
        parts = {"simulator": simulator, "codec": codec, "network": rest - queue, "queue": queue}
    else:
        rest = np.maximum(whole - client, 0)
        network = np.minimum(rest, round_trip)
        queue = np.clip(rest - network, 0, typical)
        worked = rest - network - queue
        parts = {"simulator": worked, "codec": client, "network": network, "queue": queue}
    found = [
        Share(part, float(np.median(values)), float(np.percentile(values, 99)))
        for part, values in parts.items()
    ]
    found.sort(key=lambda share: -share.median)
    return [*found, Share("step", float(np.median(whole)), float(np.percentile(whole, 99)))]


def of_steps(
    measured: Measured, found: Sequence[Share], round_trip: float, larger: Measured | None
) -> list[Finding]:
    """Why steps take as long as they do, the likeliest first.

    Args:
        measured: a session's steps.
        found: their shares.
        round_trip: of the network alone, seconds.
        larger: the same with more environments, if there was one.
    """
    by_part = {share.part: share.median for share in found}
    whole = max(by_part["step"], 1e-9)
    causes: list[tuple[float, Finding]] = []
    simulator = by_part["simulator"]
    # In a process with others at work hardly any request has it good; on a machine that is merely
    # shared some do. A long link's own delays vary by about as much as it is long.
    quickest = float(np.percentile(measured.idle, _QUICKEST)) - round_trip
    busy = quickest > max(_IDLE_SECONDS, 2 * round_trip)
    if busy and by_part["queue"] / whole > _NOTEWORTHY / 4:
        # Whoever waits for a turn waits inside the simulator's time too.
        causes.append((2.0, _busy(by_part["queue"])))
    is_slow = simulator > _SLOW_STEP and simulator / measured.envs > _SLOW_ENVIRONMENT
    if is_slow and simulator / whole > _NOTEWORTHY:
        causes.append((simulator / whole, _slow_simulator(measured, simulator)))
    if by_part["network"] / whole > _NOTEWORTHY and by_part["network"] > _LONG_SECONDS:
        transfer = max(by_part["network"] - round_trip, 1e-9)
        amount = measured.sent + measured.received
        if transfer > round_trip and amount > _LARGE_BYTES and amount / transfer < _SLOW_LINK:
            causes.append((by_part["network"] / whole, _large(measured, transfer)))
        elif round_trip > _LONG_SECONDS:
            causes.append((by_part["network"] / whole, _latency(round_trip)))
    if by_part["codec"] / whole > _NOTEWORTHY and by_part["codec"] > 1e-3:
        causes.append((by_part["codec"] / whole, _codec(measured)))
    if larger is not None and larger.rate > _GAIN * measured.rate and not busy:
        # Its share is what more environments would win, unless something above is the reason.
        causes.append((_NOTEWORTHY, _small(measured, larger)))
    causes.sort(key=lambda cause: -cause[0])
    findings = [finding for _, finding in causes]
    return findings or [
        Finding(
            Cause.NOTHING,
            f"{measured.rate:,.0f} environment steps a second in one session",
            "for more, use more --workers and more servers",
        )
    ]


def of_several(alone: Sequence[Measured], together: Sequence[Measured]) -> Finding | None:
    """Whether servers stand in each other's way, as their own times say.

    Args:
        alone: steps of each while the others rest.
        together: the same, all at once.
    """
    before = [float(np.median(each.simulator)) for each in alone if each.simulator]
    after = [float(np.median(each.simulator)) for each in together if each.simulator]
    if len(before) < 2 or len(after) != len(before):
        return None
    if sum(after) < _CROWDED * sum(before) or sum(after) / len(after) < _SLOW_STEP:
        return None
    return Finding(
        Cause.CROWDED_CORES,
        f"a step takes the {len(before)} simulators {sum(before) / len(before) * 1e3:.1f} ms one "
        f"by one, and {sum(after) / len(after) * 1e3:.1f} ms all at once",
        "start no more --workers than the machine has cores, or add machines",
    )


def of_remarks(measured: Measured) -> list[Finding]:
    """What else is worth knowing."""
    found = []
    if measured.faults:
        found.append(
            Finding(
                Cause.SIMULATOR_FAILS,
                f"{measured.faults} environments failed while {len(measured.whole)} steps were "
                "taken",
                "see the server's log; each is an episode cut short",
            )
        )
    if measured.is_debugging:
        found.append(
            Finding(
                Cause.DEBUG,
                "errors come with tracebacks",
                "leave it out in production: it tells clients about the inside of the server",
            )
        )
    return found


def _slow_simulator(measured: Measured, seconds: float) -> Finding:
    each = seconds / measured.envs
    return Finding(
        Cause.SLOW_SIMULATOR,
        f"{seconds * 1e3:.1f} ms a step for {measured.envs} environments, {each * 1e3:.2f} ms each",
        "more --workers on more cores, and all of them in --sims; a batch simulator that steps "
        "all its environments in one call on arrays (docs/simulators.md)",
    )


def _large(measured: Measured, seconds: float) -> Finding:
    amount = measured.sent + measured.received
    return Finding(
        Cause.LARGE_MESSAGES,
        f"{amount / 1e6:.2f} MB a step, {amount / max(seconds, 1e-9) / 1e6:.1f} MB/s",
        "smaller observations (uint8 for pictures, float32 for the rest, only what the policy "
        "needs), simulators nearer to the head, or fewer environments on each link",
    )


def _latency(round_trip: float) -> Finding:
    return Finding(
        Cause.LATENCY,
        f"a round trip takes {round_trip * 1e3:.1f} ms",
        "more environments in a session (one round trip steps them all) and pipelining, or "
        "simulators nearer to the head",
    )


def _codec(measured: Measured) -> Finding:
    return Finding(
        Cause.CODEC,
        f"{(measured.sent + measured.received) / 1e6:.2f} MB a step",
        "smaller or fewer observations and infos; spaces of arrays (Box) instead of Text, "
        "Sequence and Graph, which travel value by value",
    )


def _busy(seconds: float) -> Finding:
    return Finding(
        Cause.BUSY,
        f"a request that nobody has to work for waits {seconds * 1e3:.1f} ms",
        "several sessions share one Python process, which is one core: more --workers, and "
        "clients spread over them; otherwise see what else runs on that machine",
    )


def _small(measured: Measured, larger: Measured) -> Finding:
    return Finding(
        Cause.SMALL_BATCHES,
        f"{measured.rate:,.0f} environment steps a second with {measured.envs} environments, "
        f"{larger.rate:,.0f} with {larger.envs}",
        "more environments in each session (farsim train --num-envs)",
    )
