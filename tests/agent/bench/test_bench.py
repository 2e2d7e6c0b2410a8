"""``farsim bench``: every peer that can play plays, and what is told of it is right."""

import io
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.bench import contest, peers
from agent.bench.case import SIMULATORS, Baseline, Case, Simulator
from agent.bench.contest import Row, Turn, base_of
from agent.bench.link import Link
from agent.bench.report import Report
from agent.bench.sweeps import SWEEPS
from farsim.cli import app
from farsim.errors import FarsimError
from tests.agent.training.command import descendants, workplace
from tests.neighbours import openenv_python

#: Everyone but those that need RLlib, which takes long to import.
#: But for one more of those that differ in how many parts are in flight.
LIGHT = [
    peer
    for peer in peers.PEERS.values()
    if "ray" not in peer.needs and peer.name != "remote-pipelined-8"
]


def bench(*arguments: object):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def with_openenv(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(peers.OPENENV_PYTHON, str(openenv_python()))
    peers.openenv_python.cache_clear()
    yield
    peers.openenv_python.cache_clear()


def check_counters(row: Row, rounds: int) -> None:
    assert not row.failure
    assert len(row.turns) == rounds
    assert row.head_peak > 10e6
    for turn in row.turns:
        assert turn.payload > 0 and turn.seconds >= 0.1 and turn.head_cpu > 0
        if row.case.peer == "grpc-push":
            assert turn.steps == 0
            continue
        assert turn.steps > 0
    if row.median("p50") is not None:
        assert 0 < row.median("p50") <= row.median("p99")
    if peers.find(row.case.peer).has_wire:
        assert row.simulator_peak > 10e6
        assert row.turns[0].simulator_cpu is not None
    else:
        assert row.simulator_peak is None and row.turns[0].simulator_cpu is None


def test_every_peer_without_rllib_plays(with_openenv):
    assert all(peer.is_present for peer in LIGHT)
    cases = [Case(peer.name, "cartpole", 4) for peer in LIGHT]
    told = []
    rows = contest.play(cases, 2, 0.1, lambda what, done: told.append((what, done)))
    assert [row.case for row in rows] == cases
    for row in rows:
        check_counters(row, 2)
        assert (row.median("p50") is None) == (row.case.peer == "grpc-push")
        assert row.envs == (1 if row.case.peer == "openenv" else 4)
        # Four observations of four float32, an int64, a float64 and two flags for each step.
        # Rows that only begin an episode have bytes too, but are no steps.
        for turn in row.turns:
            if turn.steps:
                assert 34 <= turn.payload / turn.steps < 34 * 1.5
    fractions = [done for _, done in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


@pytest.mark.slow
def test_env_runners_play():
    cases = [Case("rllib", "cartpole", 4), Case("runner-awake", "cartpole", 4)]
    cases += [Case("rllib", "spread", 2), Case("runner", "spread", 2)]
    for row in contest.play(cases, 1, 0.1):
        check_counters(row, 1)
        agents, size = (3, 18) if row.case.simulator == "spread" else (1, 4)
        (turn,) = row.turns
        assert turn.payload == turn.steps * agents * (4 * size + 18)


@pytest.mark.parametrize("simulator", ["cartpole-numpy", "deeprm", "spread", "image"])
def test_every_simulator_is_stepped_by_arrays(simulator: str):
    """The same arrays, whoever brings them."""
    players = ["in-process", "remote", "grpc-stream-pipelined"]
    players += ["dm-env-rpc"] if simulator == "image" else []
    rows = contest.play([Case(player, simulator, 6) for player in players], 1, 0.1)
    for row in rows:
        check_counters(row, 1)
    # Rows that begin episodes are left out of the steps, except where none are needed.
    sizes = [turn.payload / turn.steps for row in rows for turn in row.turns]
    assert max(sizes) < 1.2 * min(sizes)


def test_environments_are_spread_over_servers_and_links_are_slow():
    link = Link(10.0)
    cases = [
        Case("remote", "synthetic-1ms", 8, servers=4, processes=2),
        Case("remote", "synthetic-1ms", 4, link=link),
        Case("remote-pipelined", "synthetic-1ms", 4, link=link),
        Case("grpc-unary", "synthetic-1ms", 4, link=link),
    ]
    rows = contest.play(cases, 1, 0.2)
    for row in rows:
        check_counters(row, 1)
    # Two environments each, one after the other.
    assert rows[0].median("p50") >= 0.002
    for row in rows[1:]:
        assert row.median("p50") >= 0.010


def test_a_case_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SIMULATORS, "broken", Simulator("broken", "nowhere:Nothing"))
    cases = [Case("grpc-unary", "broken", 2), Case("in-process", "broken", 2)]
    *failed, played = contest.play([*cases, Case("in-process", "synthetic", 2)], 1, 0.1)
    for row in failed:
        assert "no module 'nowhere' here" in row.failure and not row.turns
    check_counters(played, 1)


def test_the_command_writes_a_table_and_a_plot(tmp_path: Path):
    with workplace(tmp_path) as place:
        output = place.run(
            *("bench", "--simulator", "synthetic", "--envs", 2, "--rounds", 2),
            *("--seconds", 0.1, "--peer", "in-process", "--peer", "grpc-stream", "--out", "out"),
            *("--pin", "--link", "none", "--link", "1ms"),
        )
    assert "no wire: a plain loop in process" in output
    assert "pinned to one core" in output
    assert "left out: in-process, synthetic, 2 environments, 1ms" in output
    document = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [len(row["turns"]) for row in document["rows"]] == [2] * len(document["rows"])
    markdown = (tmp_path / "out" / "bench.md").read_text()
    assert markdown.count("\n| ") == 1 + len(document["rows"])
    assert "| plain gRPC by hand, stream | synthetic | 2 | 1ms |" in markdown
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_an_absent_peer_is_named(monkeypatch: pytest.MonkeyPatch):
    absent = replace(peers.PEERS["dm-env-rpc"], needs="a_module_that_nobody_has")
    monkeypatch.setitem(peers.PEERS, "dm-env-rpc", absent)
    arguments = ["--envs", 2, "--rounds", 1, "--seconds", 0.1]
    result = bench(*arguments, "--peer", "dm-env-rpc", "--peer", "in-process")
    assert result.exit_code == 0
    assert "absent: dm_env_rpc, batched by hand (dm-env-rpc): pip install" in result.output
    assert "no wire" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "remte"], "did you mean 'remote'"),
        (["--sweep", "runners"], "did you mean 'runner'"),
        (["--simulator", "cartpol"], "did you mean 'cartpole'"),
        (["--link", "far"], "is no link"),
        (["--baseline", "colour=red"], "rows are compared by"),
        (["--peer", "remote", "--baseline", "remte"], "no row has the peer 'remte'"),
        (["--peer", "rllib", "--link", "5ms"], "nothing to compare"),
        (["--sweep", "runner", "--simulator", "deeprm"], "has nothing of what is asked for"),
    ],
)
def test_what_can_not_be_is_said(arguments: list[str], said: str):
    result = bench(*arguments)
    assert result.exit_code == 1
    assert said in " ".join(str(result.exception or result.output).split()) + result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(tmp_path: Path, number: signal.Signals):
    with workplace(tmp_path) as place:
        process = place.start(
            *("bench", "--simulator", "synthetic-1ms", "--envs", 2, "--rounds", 100),
            *("--peer", "remote", "--peer", "grpc-stream", "--peer", "in-process"),
            *("--link", "1ms", "--link", "none"),
        )
        try:
            # A server, a proxy and a head for each of two, without the proxy and alone.
            until = time.monotonic() + 100
            while len(started := descendants(process)) < 2 * 3 + 2 * 2 + 1:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
            _, left = psutil.wait_procs(started, timeout=60)
            assert not left
            if number == signal.SIGINT:
                assert process.returncode == 130, output
                assert "Traceback" not in output
                place.check_clean()
        finally:
            process.kill()


def turns(*rates: float) -> list[Turn]:
    return [Turn(int(rate), 10, 1.0, 0.5, 0.25, 0.001, 0.002) for rate in rates]


def test_ratios_are_medians_over_rounds_against_the_row_that_differs_in_one_thing():
    base = Row(Case("rllib", "cartpole", 32), turns(100, 200, 400))
    row = Row(Case("runner", "cartpole", 32), turns(300, 300, 800))
    other = Row(Case("runner", "cartpole", 128), turns(1, 1, 1))
    baseline = Baseline.of("rllib")
    rows = [base, row, other]
    assert base_of(row, rows, baseline) is base and base_of(base, rows, baseline) is base
    assert base_of(other, rows, baseline) is None
    assert row.ratio(base, "steps") == 2.0
    assert row.cpu_per_million("head_cpu") == pytest.approx(1e6 * 1.5 / 1400)
    near = Row(Case("remote", "cartpole", 32), turns(10))
    far = Row(Case("remote", "cartpole", 32, link=Link(5.0)), turns(5))
    assert base_of(far, [near, far], Baseline.of("link=none")) is near


@pytest.mark.parametrize("width", [80, 110, 180])
def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(width: int):
    names = ("remote", "grpc-stream", "in-process")
    rows = [Row(Case(name, "cartpole", 32), turns(1e7, 2e7, 3e7)) for name in names]
    told = Report("Steps", rows, Baseline.of("grpc-stream"), "steps", ["absent: x"], "a machine")
    console = Console(width=width, record=True, file=io.StringIO())
    told.show(console)
    text = console.export_text()
    assert "20,000,000" in text and "1.00" in text and "absent: x" in text
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert ("no room for" in text) == (width < 180)


def test_sweeps_only_ask_for_what_can_be_played():
    for sweep in SWEEPS.values():
        assert len(set(sweep.cases)) == len(sweep.cases)
        assert any(sweep.baseline.holds(case) for case in sweep.cases)
        for case in sweep.cases:
            assert not peers.find(case.peer).refuses(case)
            assert Simulator.of(case.simulator).served


def test_any_step_time_can_be_asked_for():
    assert Simulator.of("synthetic-100us").options == {"step_seconds": pytest.approx(1e-4)}
    assert Simulator.of("synthetic-0.5s").options == {"step_seconds": 0.5}
    with pytest.raises(FarsimError, match="no simulator 'synthetic-1h'"):
        Simulator.of("synthetic-1h")
