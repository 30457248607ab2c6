# SPDX-License-Identifier: Apache-2.0
"""Files about devices: recorded traffic, dumps of registers, self-tests, measurements."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .report import FileReport

RECORD, DUMP = "lutvar-record-1", "lutvar-dump-1"


def record(entries: list[Any]) -> FileReport:
    """What `?record=FILE` wrote: a line about the device, then one for each call."""
    header, *events = entries
    counts = Counter(str(event[0]) for event in events)
    return FileReport(
        "recorded traffic of a device",
        RECORD,
        "every line",
        "--device replay:FILE",
        {
            "device": header["name"],
            "memory_bytes": header["size"],
            "clock": header["clock"],
            "calls": dict(sorted(counts.items())),
        },
    )


def dump(_path: Path, data: dict[str, Any]) -> FileReport:
    """All that a device said about itself after an error."""
    return FileReport(
        "registers of a device, for a report",
        DUMP,
        facts={
            "device": data["transport"]["name"],
            "accelerator": data["accelerator"]["name"],
            "error": (data["error"] or {}).get("text"),
            "state": data["state"],
            "time": data["time"],
            "versions": data["versions"],
        },
    )


def references(path: Path) -> FileReport:
    """What a self-test must find. Raises BadInput for a damaged file."""
    from lutvar.host.board.references import FORMAT, References

    found = References.load(path)
    kinds = Counter(name.split("/")[0] for name in found.results)
    return FileReport(
        "references of `lutvar selftest --record`",
        FORMAT,
        "SHA-256 of everything",
        "lutvar selftest --reference",
        {
            "accelerator_hash": found.accelerator,
            "model_sha256": found.model or None,
            "recorded_on": found.source,
            "results": dict(sorted(kinds.items())),
        },
    )


def verdict(_path: Path, data: dict[str, Any]) -> FileReport:
    """What a self-test has found."""
    counts = Counter(outcome["result"] for outcome in data["outcomes"])
    return FileReport(
        "verdict of `lutvar selftest`",
        str(data["format"]),
        facts={
            "device": data["device"],
            "accelerator": data["accelerator"],
            "accelerator_hash": data["hash"],
            "passed": data["passed"],
            "checks": dict(sorted(counts.items())),
            "not_checked": data["not_checked"],
        },
    )


def measured(_path: Path, data: dict[str, Any]) -> FileReport:
    """What `lutvar bench --device` found."""
    return FileReport(
        "figures of `lutvar bench --device`",
        facts={
            "device": data["device"],
            "accelerator": data["accelerator"],
            "figures": data["kind"],
            "images": data["images"],
            "images_per_second": data["images_per_second"],
            "cycles_per_image": data["cycles_per_image"],
        },
    )
