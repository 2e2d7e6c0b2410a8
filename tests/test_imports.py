"""The packages import only what they may, so that the simulator image stays small.

Read from the source rather than from ``sys.modules``, so that an import within a function counts.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"farsim", "simserver", "agent", "deploy"}
LEARNERS = {"ray", "torch"}

#: For each package, what it must never import.
FORBIDDEN = {
    "farsim": (OURS - {"farsim"}) | LEARNERS,
    "simserver": {"agent", "deploy"} | LEARNERS,
    "agent": {"simserver", "deploy"},
    "deploy": {"simserver", "agent"} | LEARNERS,
}
#: Beside the standard library, all that both ends share may need.
FARSIM_MAY_USE = {
    *("cryptography", "google", "grpc", "grpc_health", "grpc_reflection", "gymnasium", "hpack"),
    *("numpy", "rich", "typer", "yaml"),
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, those by name in a string included."""
    for node in ast.walk(ast.parse(source)):
        modules: list[str] = []
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                modules = [module]
        for module in modules:
            yield node.lineno, module.partition(".")[0]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_keep_apart(package: str):
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imports(path.read_text())
        if module in FORBIDDEN[package]
    ]
    assert not offences


def test_what_both_ends_share_needs_little():
    modules = {module for path in sources("farsim") for _, module in imports(path.read_text())}
    assert modules - sys.stdlib_module_names <= FARSIM_MAY_USE | {"farsim"}


def test_every_package_of_ours_has_rules():
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert packages == set(FORBIDDEN) == OURS


def test_the_reader_of_imports_sees_them_all():
    source = """
import numpy as np, ray.rllib
from . import sibling
from torch.nn import Module
def later():
    import agent.training
    importlib.import_module("deploy.azure")
    import_module("simserver")
    import_module(name)
"""
    assert sorted(imports(source)) == [
        *((2, "numpy"), (2, "ray"), (4, "torch"), (6, "agent"), (7, "deploy"), (8, "simserver")),
    ]
