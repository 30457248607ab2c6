# SPDX-License-Identifier: Apache-2.0
"""What `lutvar evidence`, `coverage`, `formal`, `fuzz`, `export-vectors` and mutation write."""

from __future__ import annotations

from collections import Counter
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


def proofs(entries: list[Data]) -> FileReport:
    """Results of proofs, or of proofs of mutants."""
    counts = Counter(str(entry["status"]) for entry in entries)
    mutants = sum(bool(entry["mutant"]) for entry in entries)
    facts = {
        "properties": len({entry["name"] for entry in entries}),
        "mutants": mutants,
        "results": dict(sorted(counts.items())),
        "requirements": sum(entry["requirements"] for entry in entries),
        "seconds": round(sum(entry["seconds"] for entry in entries), 1),
    }
    return FileReport("results of `lutvar formal` (proofs)", facts=facts)


def proof(_path: Path, data: Data) -> FileReport:
    """The result that is kept in the folder of one proof."""
    keys = ("name", "mutant", "status", "engine", "depth", "requirements", "lemmas", "seconds")
    return FileReport(
        "result of one proof of `lutvar formal`",
        read_by="lutvar formal, which takes it until Verilog or property change",
        facts={**{key: data[key] for key in keys}, "detail": data["detail"]},
    )


def fuzz_report(_path: Path, data: Data) -> FileReport:
    """Figures of a run of random programs."""
    keys = ("configuration", "seed", "programs", "cycles", "seconds", "kinds", "ends")
    facts = {**{key: data[key] for key in keys}, "deviations": len(data["deviations"])}
    return FileReport("figures of `lutvar fuzz` (simulated)", facts=facts)


def fuzz_case(_path: Path, data: Data) -> FileReport:
    """Programs that once deviated."""
    return FileReport(
        "case of `lutvar fuzz`",
        str(data["format"]),
        read_by="lutvar fuzz --case",
        facts={
            "accelerator": data["config"]["name"],
            "accelerator_hash": data["hash"],
            "contract": f"0x{data['version']:X}",
            "programs": len(data["steps"]),
            "seed": data["seed"],
            "found": data["what"],
        },
    )


def mutation(_path: Path, data: Data) -> FileReport:
    """What became of the mutants of a campaign."""
    keys = ("configuration", "mutants", "killed", "survived", "equivalent", "by_check")
    return FileReport(
        "report of `make mutation` (simulated)", facts={key: data[key] for key in keys}
    )
