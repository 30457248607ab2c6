# SPDX-License-Identifier: Apache-2.0
"""The history of `lutvar bench`: a file to which each run appends one line of JSON.

A line never changes once it is written. `lutvar bench --history FILE` appends and draws;
`python -m lutvar.bench.history_plot FILE` draws again.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from lutvar import __version__
from lutvar.files import prepare_output

from .report import BenchmarkReport


class Figure(BaseModel):
    """One measured figure.

    Attributes:
        value: the figure. unit: of value and target.
        target: bound to keep; None when there is none.
        higher: the target is a lower bound.
    """

    model_config = ConfigDict(frozen=True)

    value: FiniteFloat
    unit: str
    target: FiniteFloat | None = None
    higher: bool = False

    @property
    def missed(self) -> bool:
        """Whether it breaks its target."""
        if self.target is None:
            return False
        return self.value < self.target if self.higher else self.value > self.target


class Entry(BaseModel):
    """One run, a line of the file.

    Attributes:
        format: of the line.
        commit: of the sources, 12 hex digits, with `+` when files differ from it; None outside a
            repository.
        date: ISO 8601, UTC.
        version: of the package.
        quick: the run left out what takes longest.
        machine: processor, cores and versions of the tools.
        figures: by name.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["lutvar-bench-1"] = "lutvar-bench-1"
    commit: str | None
    date: str
    version: str
    quick: bool
    machine: dict[str, Any]
    figures: dict[str, Figure]

    @property
    def label(self) -> str:
        """Date and commit for an axis."""
        return f"{self.date[:10]} {(self.commit or '')[:7]}".strip()


def commit() -> str | None:
    """Commit of the package's sources, `+` behind it when tracked files were changed since.

    None without git, and where the package lies inside a repository that does not track it, as in
    the environment of a user's own project.
    """
    try:
        if _git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return None
        done = _git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """git in the folder of this module."""
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=30,
    )  # fmt: skip


def entry_of(report: BenchmarkReport) -> Entry:
    """The entry of a run that has just ended; figures that could not be measured are left out."""
    figures = {
        m.name: Figure(value=m.value, unit=m.unit, target=m.target, higher=m.higher)
        for m in report.measurements
        if m.value is not None
    }
    return Entry(
        commit=commit(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        quick=report.quick,
        machine=dict(report.machine),
        figures=figures,
    )


def read(path: Path) -> list[Entry]:
    """All entries, oldest first; none when the file does not exist.

    Raises:
        ValueError: it is no regular file, or a line is not of this format; the message names
            file and line. The file is left as it is.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"{path}: a history is a regular file; name another with --history")
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise ValueError(
                f"{path}:{number}: not a line of a bench history ({where}{first['msg']}); the file "
                "is left as it is. Mend or delete the line, or name another file with --history"
            ) from None
    return entries


def append(path: Path, entry: Entry) -> None:
    """Add a line to the end; what is there stays as it is, byte for byte.

    Raises:
        ValueError: the file holds something else (see `read`), or cannot be written.
    """
    read(path)
    prepare_output(path)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # an editor took the last line's end
                file.write(b"\n")
        file.write(entry.model_dump_json().encode() + b"\n")
