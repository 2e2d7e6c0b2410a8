"""The root of the ``farsim`` command, as a process of its own."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import farsim
from farsim.cli import EXTRA_MODULES, SUBCOMMANDS

FARSIM = [sys.executable, "-m", "farsim"]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def write_subcommand(folder: Path, module: str, extra: str = "") -> list[str]:
    """A command line for ``farsim`` with one more subcommand, ``odd``, whose module is given."""
    (folder / "odd_command.py").write_text(module)
    script = folder / "farsim_with_odd.py"
    script.write_text(
        "import sys\n"
        "from farsim import cli\n"
        f"cli.SUBCOMMANDS['odd'] = cli.Subcommand('odd_command:odd', 'An odd one.', {extra!r})\n"
        "cli.main(sys.argv[1:])\n"
    )
    return [sys.executable, str(script)]


def test_help_has_a_line_for_every_subcommand():
    result = run(*FARSIM, "--help")
    assert result.returncode == 0
    for name, subcommand in SUBCOMMANDS.items():
        [line] = [line for line in result.stdout.splitlines() if line.split()[:1] == [name]]
        assert line.endswith(subcommand.help)


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from farsim.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    result = run(sys.executable, "-c", script)
    assert "Usage: farsim" in result.stdout
    imported = {name.partition(".")[0] for name in result.stderr.split()}
    assert "typer" in imported
    heavy = {"ray", "torch", "numpy", "gymnasium", "grpc", "google", "pydantic", "rich", "yaml"}
    assert not imported & heavy
    assert not imported & {"simserver", "agent", "deploy", "cryptography"}


def test_every_subcommand_comes_with_an_extra_of_the_distribution():
    provided = set(importlib.metadata.metadata("farsim").get_all("Provides-Extra"))
    assert {subcommand.extra for subcommand in SUBCOMMANDS.values()} <= {"", *provided}
    assert set(EXTRA_MODULES) <= provided


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_help(name: str):
    result = run(*FARSIM, name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: farsim {name} [OPTIONS]")


def test_version():
    result = run(*FARSIM, "--version")
    assert (result.returncode, result.stdout) == (0, f"farsim {farsim.__version__}\n")


def test_a_wrong_subcommand_suggests_the_nearest():
    result = run(*FARSIM, "trian")
    assert result.returncode == 2
    assert "No such command 'trian'. Did you mean 'train'?" in result.stderr


def test_the_help_of_a_subcommand_has_examples():
    result = run(*FARSIM, "certs", "--help")
    assert result.returncode == 0
    assert "Usage: farsim certs" in result.stdout
    assert "farsim certs --host sim1 --host 10.0.0.4 --token\n" in result.stdout


def test_an_error_is_one_line(tmp_path: Path):
    result = run(*FARSIM, "certs", "--out", str(tmp_path), "--host", "sim1:50051")
    assert result.returncode == 1
    (error,) = result.stderr.splitlines()
    assert error.startswith("error: 'sim1:50051' is neither a host name nor an IP address")
    assert result.stdout == ""


def test_where_something_else_went_wrong_a_hint_says_how_to_see_it(tmp_path: Path):
    command = write_subcommand(
        tmp_path,
        "from farsim.errors import SimulatorFault\n"
        "def odd() -> None:\n"
        "    try:\n"
        "        open('/no/licence')\n"
        "    except OSError as error:\n"
        "        raise SimulatorFault('the simulator has no licence') from error\n",
    )
    assert run(*command, "odd").stderr.splitlines() == [
        "error: the simulator has no licence",
        "hint: farsim --debug odd ... shows the traceback",
    ]


def test_debug_shows_the_traceback(tmp_path: Path):
    wrong = ("certs", "--out", str(tmp_path), "--host", "sim1:50051")
    for result in (run(*FARSIM, "--debug", *wrong), run(*FARSIM, *wrong, FARSIM_DEBUG="1")):
        assert result.returncode == 1
        assert "Traceback (most recent call last)" in result.stderr
        assert "farsim.certs.CertificateError: 'sim1:50051' is neither" in result.stderr


def test_the_error_says_what_it_is_about(tmp_path: Path):
    command = write_subcommand(
        tmp_path,
        "from farsim.errors import InvalidOption\n"
        "def odd() -> None:\n"
        "    raise InvalidOption('too high: give at most 1', 'gravity')\n",
    )
    result = run(*command, "odd")
    assert result.stderr.startswith("error: too high: give at most 1 (gravity)\n")


def test_a_missing_package_names_its_extra(tmp_path: Path):
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    command = write_subcommand(
        tmp_path,
        "import sys\nsys.modules['torch'] = None\nimport torch\ndef odd() -> None: ...\n",
        extra="train",
    )
    result = run(*command, "odd")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: farsim odd needs torch, which is not installed: install farsim[train]",
        "hint: pip install 'farsim[train]'",
    ]


def test_a_missing_package_prefers_the_subcommands_own_extra(tmp_path: Path):
    for extra, expected in (("video", "video"), ("train", "train"), ("", "sim")):
        command = write_subcommand(
            tmp_path,
            "import sys\ndef odd() -> None:\n    sys.modules['PIL'] = None\n    import PIL.Image\n",
            extra,
        )
        assert f"install farsim[{expected}]\n" in run(*command, "odd").stderr


def test_a_missing_package_of_the_users_own_is_named(tmp_path: Path):
    command = write_subcommand(tmp_path, "import a_package_of_the_user\n")
    result = run(*command, "odd")
    assert result.returncode == 1
    assert result.stderr.startswith("error: No module named 'a_package_of_the_user': install it")


def test_a_bug_keeps_its_traceback(tmp_path: Path):
    for module, end in (
        ("def odd() -> None:\n    {}['key']\n", "KeyError: 'key'"),
        ("import farsim.nothing\n", "ModuleNotFoundError: No module named 'farsim.nothing'"),
    ):
        result = run(*write_subcommand(tmp_path, module), "odd")
        assert result.returncode == 1
        assert result.stderr.startswith("Traceback (most recent call last)")
        assert result.stderr.splitlines()[-1] == end


def test_a_typer_app_is_a_subcommand_with_subcommands(tmp_path: Path):
    command = write_subcommand(
        tmp_path,
        "import typer\n"
        "odd = typer.Typer()\n"
        "@odd.command()\n"
        "def one() -> None: print('one')\n"
        "@odd.command()\n"
        "def two() -> None: print('two')\n",
    )
    result = run(*command, "odd", "two")
    assert (result.returncode, result.stdout) == (0, "two\n")


def test_ctrl_c_ends_without_a_traceback(tmp_path: Path):
    command = write_subcommand(
        tmp_path,
        "import time\n"
        "def odd() -> None:\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(1)\n",
    )
    process = subprocess.Popen(
        [*command, "odd"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert error == ""
