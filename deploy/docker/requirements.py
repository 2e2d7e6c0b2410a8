"""Prints what Farsim needs with some of its extras, one requirement a line, without Farsim itself.

    python deploy/docker/requirements.py pyproject.toml sim,train --build

An image installs these before it is given Farsim's own code, so that a change there does not
install everything anew. It runs where nothing is installed yet, hence by the standard library
alone, from Python 3.11 on.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib

    def read(path: Path) -> dict[str, Any]:
        """The content of ``pyproject.toml``."""
        return tomllib.loads(path.read_text())

else:

    def read(path: Path) -> dict[str, Any]:
        """Exits: a wheelhouse for the images is filled by the Python that they have."""
        raise SystemExit(f"reading {path} takes Python 3.11, which the images have")


_OWN = re.compile(r"farsim\[(?P<extras>[\w,\s-]+)\]")


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Those of a project and of some of its extras, in order and each once.

    Args:
        project: the table ``project`` of ``pyproject.toml``.
        extras: their names; one that names others (``farsim[sim,train]``) stands for those.
    """
    found = list(project["dependencies"])
    for extra in extras:
        known = project["optional-dependencies"]
        if extra not in known:
            raise SystemExit(f"no extra '{extra}'; there are {', '.join(known)}")
        for requirement in known[extra]:
            own = _OWN.fullmatch(requirement)
            if own:
                found += requirements(project, _split(own["extras"]))
            else:
                found.append(requirement)
    return list(dict.fromkeys(found))


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("extras", type=_split)
    parser.add_argument("--build", action="store_true", help="with what builds Farsim's wheel")
    arguments = parser.parse_args()
    content = read(arguments.pyproject)
    lines = requirements(content["project"], arguments.extras)
    if arguments.build:
        lines += content["build-system"]["requires"]
    print("\n".join(lines))
