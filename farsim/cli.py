"""The root of the ``farsim`` command; each subcommand loads its own package when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import farsim


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand lives.

    Attributes:
        target: ``module:attribute`` of a function with Typer's annotations, or of a
            ``typer.Typer`` for a subcommand that has subcommands of its own.
        help: one line for ``farsim --help``, told without loading the module.
        extra: the extra of the distribution that its packages come with; empty for none.
    """

    target: str
    help: str
    extra: str = ""


SUBCOMMANDS = {
    "serve": Subcommand("simserver.cli:serve", "Serve simulators over gRPC.", "sim"),
    "train": Subcommand(
        "agent.training.cli:train", "Train a policy on local or remote simulators.", "train"
    ),
    "evaluate": Subcommand(
        "agent.evaluation.cli:evaluate", "Compare a checkpoint with other policies.", "train"
    ),
    "policy": Subcommand(
        "agent.policy.cli:policy", "Serve a checkpoint to simulators that ask for actions.", "train"
    ),
    "live": Subcommand(
        "simserver.live.cli:live", "Run a simulator that asks a served policy what to do.", "sim"
    ),
    "gateway": Subcommand(
        "farsim.cli:gateways", "Offer simulators that dial in, or speak something else."
    ),
    "deploy": Subcommand("deploy.cli:app", "Run simulators in containers.", "docker"),
    "check": Subcommand(
        "farsim.check.cli:check", "Check whether a simulator server keeps its promises."
    ),
    "doctor": Subcommand(
        "farsim.doctor.cli:doctor", "Say why a server is slow or can not be reached."
    ),
    "bench": Subcommand("agent.bench.cli:bench", "Compare ways to step simulators, side by side."),
    "certs": Subcommand(
        "farsim.certs:certs", "Make a development CA, certificates and a token for TLS."
    ),
}

#: The subcommands of ``farsim gateway``.
GATEWAYS = {
    "attach": Subcommand(
        "agent.gateway.attach.cli:attach", "Let simulators dial in, and offer them."
    ),
    "bonsai": Subcommand(
        "simserver.gateway.bonsai.cli:bonsai",
        "Offer simulators that speak the retired Bonsai simulator API.",
        "sim",
    ),
}

_OWN_PACKAGES = {"farsim", "simserver", "agent", "deploy"}

#: The modules that only an extra brings, by extra.
EXTRA_MODULES = {
    "sim": {"prometheus_client", "PIL"},
    "train": {
        *("ray", "torch", "tensorboard", "tensorboardX", "matplotlib", "pandas", "pyarrow"),
        *("imageio", "PIL", "pettingzoo", "prometheus_client"),
    },
    "docker": {"docker"},
    "azure": {"azure", "docker", "pydantic"},
    "video": {"imageio", "imageio_ffmpeg", "PIL"},
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
    "mlflow": {"mlflow"},
    "dmenv": {"dm_env_rpc"},
    "openenv": {"websockets"},
}


class _LazyGroup(TyperGroup):
    """A group that knows its subcommands' names and one-line helps, and loads what is called."""

    subcommands: ClassVar[Mapping[str, Subcommand]] = SUBCOMMANDS

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, subcommand in self.subcommands.items():
            self.add_command(TyperCommand(name, help=subcommand.help))

    # Typer's own copy of Click is private, hence the Any for its types here.
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self.subcommands:
            ctx.invoked_subcommand = name
            command = _load(name, self.subcommands[name])
        return name, command, rest


class _Gateways(_LazyGroup):
    subcommands = GATEWAYS


class _Root(_LazyGroup):
    """The one that also says what was wrong."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            name = ctx.invoked_subcommand or "COMMAND"
            explanation = None if ctx.params["debug"] else _explain(error, name)
            if explanation is None:
                raise
            message, hint = explanation
            color = False if os.environ.get("NO_COLOR") else None
            typer.secho(f"error: {message}", err=True, fg="red", color=color)
            if hint:
                typer.secho(f"hint: {hint}", err=True, dim=True, color=color)
            raise typer.Exit(1) from error


def _load(name: str, subcommand: Subcommand) -> Any:
    module, _, attribute = subcommand.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        return get_command(target)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(target)
    return get_command(app)


def _explain(error: Exception, name: str) -> tuple[str, str] | None:
    """What to tell instead of a traceback: what was wrong, and a hint, which may be empty.

    None if it is a bug.
    """
    debug = f"farsim --debug {name} ... shows the traceback"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in _OWN_PACKAGES:
            return None
        extra = _extra_with(package, name)
        if extra:
            needs = f"farsim {name} needs {package}, which is not installed: "
            return f"{needs}install farsim[{extra}]", f"pip install 'farsim[{extra}]'"
        return f"{error}: install it where farsim is, in {sys.prefix}", debug
    # Whoever raised a FarsimError has imported its module; importing it here would cost protobuf.
    errors = sys.modules.get("farsim.errors")
    if errors is not None and isinstance(error, errors.FarsimError):
        about = f" ({error.subject})" if error.subject and error.subject not in str(error) else ""
        # Where nothing else is behind it, a traceback would tell nothing more.
        return f"{error}{about}", debug if error.__cause__ is not None else ""
    return None


def _extra_with(package: str, name: str) -> str:
    """The extra that brings a package, rather the subcommand's own; empty if none does."""
    own = SUBCOMMANDS[name].extra if name in SUBCOMMANDS else ""
    extras = [own, *EXTRA_MODULES]
    return next((extra for extra in extras if package in EXTRA_MODULES.get(extra, ())), "")


# Without Rich's panels: importing them takes longer than all the rest of `farsim --help`.
app = typer.Typer(
    cls=_Root,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


gateways = typer.Typer(
    cls=_Gateways, rich_markup_mode=None, no_args_is_help=True, add_completion=False
)


@gateways.callback()
def _gateway() -> None:
    """Offer simulators that dial in, or speak something else, as Farsim simulators.

    \b
    farsim gateway attach --listen 0.0.0.0:50071 --insecure
    farsim gateway bonsai --reward '-abs(state.value - 50)'
    """


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"farsim {farsim.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="FARSIM_DEBUG", help="Show tracebacks of errors."),
    ] = False,
) -> None:
    """Run reinforcement-learning simulators anywhere, and train on them from anywhere.

    \b
    farsim serve deeprm --address 127.0.0.1:50051
    farsim train deeprm --sims 127.0.0.1:50051
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``farsim`` with these arguments, by default the process's, and exits.

    The exit status is 0, 1 after an error, 2 for a wrong command line, or 130 after Ctrl-C.
    """
    get_command(app).main(arguments, prog_name="farsim")
