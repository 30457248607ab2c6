# SPDX-License-Identifier: Apache-2.0
"""JSON that commands write, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import devices, figures, verification
from .hardware import manifest, vivado_build, vivado_project
from .lines import inspect_lines, kind_of, report_of
from .report import FileReport, InspectError, read_json, sha256_of, shape_text

Data = dict[str, Any]
_BAD = ("failure", "error")  #: elements of a test case that is not right


def inspect_json(path: Path) -> FileReport:
    """A JSON document or a file of lines; its keys say which. Raises InspectError."""
    content = path.read_bytes()
    lines = content.splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(b"}"):
        return inspect_lines(path, content)
    data = read_json(path)
    if isinstance(data, list):
        for keys, of_list in _LISTS:
            if data and all(isinstance(item, dict) and keys <= set(item) for item in data):
                return of_list(data)
        data = {}
    for keys, reader in _KINDS:
        if keys <= set(data):
            try:
                return reader(path, data)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise InspectError(f"{path}: JSON of another version ({error!r})") from error
    if (kind := kind_of(data)) is not None:  # of lines, and this is the first
        return report_of(path, kind, [data])
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
    return FileReport(
        "result of `lutvar eval`",
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


#: Keys of every entry of a list, and its reader.
_LISTS: tuple[tuple[set[str], Callable[[list[Data]], FileReport]], ...] = (
    ({"modelled", "model"}, figures.estimates),
    ({"name", "mutant", "status"}, verification.proofs),
)
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
    ({"modelled", "formats"}, figures.comparison),
    ({"modelled", "schedule"}, figures.estimate),
    ({"measurements", "quick"}, _bench),
    ({"accelerator", "different"}, _study),
    ({"simulator", "benches"}, _simulation),
    ({"key", "values_different"}, verification.evidence),
    ({"shares", "uncovered_signals"}, verification.coverage),
    ({"case", "memory_words"}, verification.vectors),
    ({"name", "mutant", "status", "key"}, verification.proof),
    ({"kinds", "ends", "deviations"}, verification.fuzz_report),
    ({"format", "hash", "config", "steps"}, verification.fuzz_case),
    ({"configuration", "killed", "rows"}, verification.mutation),
    ({"rows", "measured_now"}, figures.results),
    ({"modelled", "front", "space"}, figures.front),
    ({"recipe", "images", "points"}, figures.passes_curve),
    ({"points"}, figures.unit_costs),
    ({"command", "unit", "costs"}, figures.array_costs),
    ({"lut", "levels", "source"}, figures.unit_cost),
    ({"accelerator_hash", "placement", "bandwidth"}, vivado_project),
    ({"accelerator_hash", "placement", "vivado"}, vivado_build),
)


def inspect_picture(path: Path, head: bytes) -> FileReport:
    """A PNG."""
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    if path.read_bytes()[-8:-4] != b"IEND":
        raise InspectError(f"{path}: a PNG without its end; it was cut")
    return FileReport("picture (PNG)", facts={"pixels": f"{width} x {height}"})


def inspect_onnx(path: Path) -> FileReport:
    """The graph of an image decoder, without ONNX Runtime: by the names of its ends."""
    content = path.read_bytes()
    if b"image" not in content[-512:]:  # its output stands at the end
        raise InspectError(f"{path}: a graph without its output; it was cut, or is no decoder")
    return FileReport(
        "image decoder of `lutvar pack --decoder` (ONNX)",
        read_by="lutvar generate --decoder FILE",
        facts={"sha256": sha256_of(path)},
    )


def inspect_page(path: Path, head: bytes) -> FileReport | None:
    """A page for people, signals over time, or JUnit results; None for other content."""
    if head.startswith((b"$timescale", b"$version", b"$date")):
        return FileReport("signals over time (VCD)", read_by="waveform viewers, such as GTKWave")
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
