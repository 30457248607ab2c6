# SPDX-License-Identifier: Apache-2.0
"""Files with a line of JSON for each entry: records, histories, verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from . import devices
from .report import FileReport, InspectError
from .verification import evidence_lines

Entries = list[Any]


class _Kind(NamedTuple):
    """How a kind is known and read.

    Attributes:
        keys: that its first entry has.
        read: makes the report.
        grows: it is written line by line: one that ends in the midst of a line was stopped there.
    """

    keys: set[str]
    read: Callable[[Entries], FileReport]
    grows: bool = False


def inspect_lines(path: Path, content: bytes) -> FileReport:
    """What a file of lines is. Raises InspectError for lines of something else, or damaged ones."""
    lines = [line for line in content.splitlines() if line.strip()]
    kind = kind_of(_parsed(path, lines[0], 1))
    if kind is None:
        raise InspectError(f"{path}: lines of JSON that lutvar did not write, or not this version")
    cut = kind.grows and not content.endswith(b"\n") and len(lines) > 1
    lines = lines[:-1] if cut else lines
    entries = [_parsed(path, line, number) for number, line in enumerate(lines, 1)]
    report = report_of(path, kind, entries)
    if cut:
        return replace(report, facts={**report.facts, "last_line": "cut, left out"})
    return report


def kind_of(first: Any) -> _Kind | None:
    """The kind whose entries begin with this one."""
    if not isinstance(first, dict):
        return None
    return next((kind for kind in _KINDS if kind.keys <= set(first)), None)


def report_of(path: Path, kind: _Kind, entries: Entries) -> FileReport:
    """The report of entries of a kind. Raises InspectError where they lack what they must have."""
    try:
        return kind.read(entries)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InspectError(f"{path}: lines of another version ({error!r})") from error


def _parsed(path: Path, line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InspectError(
            f"{path}: line {number} is no JSON ({error}); the file was cut or altered"
        ) from error


def _results(entries: Entries) -> FileReport:
    keys = [entry["key"] for entry in entries]
    return FileReport(
        "record of `lutvar results`",
        str(entries[0]["format"]),
        read_by="lutvar results, lutvar explore",
        facts={
            "rows": len(entries),
            "models": sorted({key["model"] for key in keys}),
            "recipes": len({key["recipe"] for key in keys}),
            "tasks": sorted({key["task"] for key in keys}),
            "sources": dict(sorted(Counter(entry["source"] for entry in entries).items())),
            "dates": sorted({entry["date"] for entry in entries}),
        },
    )


def _history(entries: Entries) -> FileReport:
    last = entries[-1]
    return FileReport(
        "history of `lutvar bench --history`",
        str(last["format"]),
        "every line",
        "lutvar bench --history",
        {
            "entries": len(entries),
            "first": entries[0]["date"],
            "last": last["date"],
            "commit": last["commit"],
            "figures": len(last["figures"]),
        },
    )


def _verdicts(entries: Entries) -> FileReport:
    checks = Counter(entry["check"] for entry in entries)
    return FileReport(
        "verdicts of an unfinished or finished `make mutation` (simulated)",
        read_by="python -m lutvar.bench.mutation, which goes on from it",
        facts={
            "mutants": len(entries),
            "survived": checks.pop("", 0),
            "killed_by": dict(checks.most_common()),
        },
    )


def _trials(entries: Entries) -> FileReport:
    attributes = [e["user_attr"] for e in entries if "user_attr" in e and "trial_id" not in e]
    known = {key: value for item in attributes for key, value in item.items()}
    return FileReport(
        "storage of `lutvar explore`",
        str(known["format"]),
        read_by="lutvar explore --storage",
        facts={
            "model": known["model"],
            "space": known["space"],
            "lutvar": known["lutvar"],
            "operations": len(entries),
        },
    )


_KINDS = (
    _Kind({"format", "clock", "size"}, devices.record, grows=True),
    _Kind({"key", "values_different"}, evidence_lines),
    _Kind({"format", "key", "source"}, _results),
    _Kind({"format", "commit", "figures"}, _history),
    _Kind({"number", "check", "what", "seconds"}, _verdicts, grows=True),
    _Kind({"op_code", "worker_id"}, _trials, grows=True),
)
