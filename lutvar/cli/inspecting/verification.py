# SPDX-License-Identifier: Apache-2.0
"""What `lutvar evidence`, `coverage` and `export-vectors` write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import FileReport

Data = dict[str, Any]


def evidence(_path: Path, data: Data) -> FileReport:
    """A record of a simulation."""
    facts = {
        "accelerator": data["config"],
        "work": data["what"],
        "right": data["ok"],
        "values": data["values"],
        "values_different": data["values_different"],
        "cycles": data["cycles"],
        "contract": data["key"]["contract"],
        "verilog": data["key"]["verilog"],
        "date": data["date"],
    }
    return FileReport("record of `lutvar evidence` (simulated)", str(data["format"]), facts=facts)


def evidence_lines(entries: list[Data]) -> FileReport:
    """Records as JSON lines, as the documentation holds them."""
    facts = {
        "records": len(entries),
        "accelerators": sorted({entry["config"] for entry in entries}),
        "values": sum(entry["values"] for entry in entries),
        "values_different": sum(entry["values_different"] for entry in entries),
    }
    return FileReport("records of `lutvar evidence`", str(entries[0]["format"]), facts=facts)


def coverage(_path: Path, data: Data) -> FileReport:
    """Figures of a run."""
    facts = {
        "accelerators": data["configs"],
        "testbenches": sum(data["testbenches"].values()),
        "failed": data["failed"],
        "covered": {kind: "{} of {}".format(*pair) for kind, pair in data["shares"].items()},
        "signals_not_covered": len(data["uncovered_signals"]),
    }
    return FileReport("figures of `lutvar coverage`", str(data["format"]), facts=facts)


def vectors(_path: Path, data: Data) -> FileReport:
    """A case beside its testbench."""
    keys = ("what", "config", "programs", "memory_words", "words_written", "contract", "verilog")
    return FileReport(
        "case of `lutvar export-vectors`",
        str(data["format"]),
        read_by="the scripts beside it",
        facts={key: data[key] for key in keys},
    )
