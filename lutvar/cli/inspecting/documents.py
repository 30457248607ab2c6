# SPDX-License-Identifier: Apache-2.0
"""JSON that commands write, and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import devices
from .hardware import manifest, vivado_build, vivado_project
from .report import FileReport, InspectError, read_json, shape_text
from .verification import coverage, evidence, evidence_lines, vectors

Data = dict[str, Any]
_BAD = ("failure", "error")  #: elements of a test case that is not right


def inspect_json(path: Path) -> FileReport:
    """A JSON document or a history of lines; its keys say which. Raises InspectError."""
    lines = path.read_bytes().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(b"}"):
        return _history(path, [line for line in lines if line.strip()])
    data = read_json(path)
    if isinstance(data, list):
        if data and all(isinstance(item, dict) and "modelled" in item for item in data):
            sizes = sorted({str(item["model"]) for item in data})
            return FileReport(
                "table of `lutvar estimate --table --json`",
                facts={"estimates": len(data), "models": sizes},
            )
        data = {}
    for keys, reader in _KINDS:
        if keys <= set(data):
            try:
                return reader(path, data)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise InspectError(f"{path}: JSON of another version ({error!r})") from error
    raise InspectError(f"{path}: JSON that lutvar did not write, or not in this version")


def model_json(_path: Path, data: Data) -> FileReport:
    """model.json by itself; the files that it names are looked at with their folder."""
    return FileReport(
        "description of a model (model.json)",
        str(data["format"]),
        read_by="--model, with its folder",
        facts={
            "name": data["name"],
            "seed": data["seed"],
            "shape": shape_text(data["var"] if "var" in data else data["generator"]["shape"]),
            "classes": len(data["classes"]),
            "parameters": data["parameters"],
            "sampling": data["sampling"],
            "files": list(data["files"]),
        },
    )


def _evaluation(_path: Path, data: Data) -> FileReport:
    model, settings = data["model"], data["settings"]
    name = model["name"] if isinstance(model, dict) else model
    kind = "results of `lutvar results`" if "hardware" in data else "result of `lutvar eval`"
    return FileReport(
        kind,
        f"lutvar {data['lutvar']}",
        facts={
            "model": name,
            "model_fingerprint": model.get("fingerprint") if isinstance(model, dict) else None,
            "protocol": data.get("protocol", "own"),
            "methods": list(dict.fromkeys(run["method"] for run in data["runs"])),
            "samples": settings["samples"],
            "seeds": settings["seeds"],
        },
    )


def _demo(_path: Path, data: Data) -> FileReport:
    return FileReport(
        "report of `lutvar demo`",
        facts={
            "verdict": data["verdict"],
            "accelerator": data["accelerator"]["name"],
            "model": data["model"],
            "classes": data["labels"],
            "seed": data["seed"],
            "compared": data["compared"],
            "hashes": data["hashes"],
            "versions": data["versions"],
        },
    )


def _estimate(_path: Path, data: Data) -> FileReport:
    keys = ("config", "model", "schedule", "batch", "clock_mhz", "images_per_second", "bound")
    return FileReport(
        "estimate of `lutvar estimate --json` (modelled)", facts={key: data[key] for key in keys}
    )


def _comparison(_path: Path, data: Data) -> FileReport:
    return FileReport(
        "comparison of `lutvar estimate --compare --json` (modelled)",
        facts={"config": data["config"], "model": data["model"], "formats": len(data["formats"])},
    )


def _bench(_path: Path, data: Data) -> FileReport:
    verdicts = [item["met"] for item in data["measurements"]]
    return FileReport(
        "figures of `lutvar bench`",
        facts={
            "measurements": len(verdicts),
            "targets_met": verdicts.count(True),
            "targets_missed": verdicts.count(False),
            "quick": data["quick"],
            "seconds": data["seconds"],
            "machine": data["machine"],
        },
    )


def _study(_path: Path, data: Data) -> FileReport:
    studies = {key: len(value) for key, value in data.items() if isinstance(value, list)}
    return FileReport(
        "tables of `lutvar study` (simulated)",
        facts={
            "accelerator": data["accelerator"]["name"],
            "model": data["model"],
            "rows": studies,
            "different": data["different"],
        },
    )


def _simulation(_path: Path, data: Data) -> FileReport:
    return FileReport(
        "results of `lutvar sim`",
        facts={
            "simulator": data["simulator"],
            "configuration": data["configuration"],
            "testbenches": len(data["benches"]),
            "seconds": data["run_seconds"],
        },
    )


def _history(path: Path, lines: list[bytes]) -> FileReport:
    try:
        entries = [json.loads(line) for line in lines]
        if "values_different" in entries[0]:
            return evidence_lines(entries)
        if entries[0].get("format") == devices.RECORD:
            return devices.record(entries)
        first, last = entries[0], entries[-1]
        return FileReport(
            "history of `lutvar bench --history`",
            str(last["format"]),
            "every line",
            "lutvar bench --history",
            {
                "entries": len(entries),
                "first": first["date"],
                "last": last["date"],
                "commit": last["commit"],
                "figures": len(last["figures"]),
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InspectError(
            f"{path}: lines of JSON, but no history of lutvar bench and no record ({error!r})"
        ) from error


#: Keys that a kind of document has, and its reader; the first that fits.
_KINDS: tuple[tuple[set[str], Callable[[Path, Data], FileReport]], ...] = (
    ({"verilog", "ports", "registers", "tools"}, manifest),
    ({"format", "var", "vqvae", "files"}, model_json),
    ({"format", "generator", "tokenizer", "files"}, model_json),
    ({"registers", "transport", "units"}, devices.dump),
    ({"outcomes", "not_checked", "rounds"}, devices.verdict),
    ({"cycles_per_image", "noc", "device"}, devices.measured),
    ({"verdict", "compared", "versions"}, _demo),
    ({"lutvar", "settings", "runs"}, _evaluation),
    ({"modelled", "formats"}, _comparison),
    ({"modelled", "schedule"}, _estimate),
    ({"measurements", "quick"}, _bench),
    ({"accelerator", "different"}, _study),
    ({"simulator", "benches"}, _simulation),
    ({"key", "values_different"}, evidence),
    ({"shares", "uncovered_signals"}, coverage),
    ({"case", "memory_words"}, vectors),
    ({"accelerator_hash", "placement", "bandwidth"}, vivado_project),
    ({"accelerator_hash", "placement", "vivado"}, vivado_build),
)


def inspect_picture(path: Path, head: bytes) -> FileReport:
    """A PNG."""
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    if path.read_bytes()[-8:-4] != b"IEND":
        raise InspectError(f"{path}: a PNG without its end; it was cut")
    return FileReport("picture (PNG)", facts={"pixels": f"{width} x {height}"})


def inspect_page(path: Path, head: bytes) -> FileReport | None:
    """A page for people, or JUnit results; None for other content."""
    if head.lower().startswith(b"<!doctype html"):
        return FileReport("page for people (HTML)", read_by="a browser")
    if head.startswith(b"# ") and path.suffix == ".md":
        title = head.splitlines()[0][2:].decode("utf-8", "replace")
        return FileReport("page for people (Markdown)", facts={"title": title})
    if head.lstrip().startswith((b"<?xml", b"<testsuite")):
        return _junit(path)
    return None


def _junit(path: Path) -> FileReport:
    # The files are small and the user's own; an expanding entity is refused all the same.
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        raise InspectError(f"{path}: XML with entities; lutvar writes none")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InspectError(f"{path}: XML that was cut or altered ({error})") from error
    cases = list(root.iter("testcase"))
    if root.tag not in ("testsuites", "testsuite"):
        raise InspectError(f"{path}: XML that lutvar did not write ({root.tag})")
    failed = [case.get("name") for case in cases if any(c.tag in _BAD for c in case)]
    return FileReport(
        "results of `lutvar sim --junit` (JUnit XML)",
        facts={"testbenches": len(cases), "failed": failed},
    )
