# SPDX-License-Identifier: Apache-2.0
"""Files about devices: recorded traffic and dumps of registers."""

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
