# SPDX-License-Identifier: Apache-2.0
"""Files of the accelerator: Verilog with its manifest, and programs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from lutvar.contract.isa import ProgramError

from .report import FileReport, InspectError, read_json, sha256_of

_HEAD = re.compile(r"// lutvar accelerator (\S+), configuration ([0-9a-f]{16})\.")


def inspect_verilog(path: Path) -> FileReport:
    """Verilog of `lutvar verilog`, compared with the manifest beside it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    match = _HEAD.match(line)
    if match is None:
        raise InspectError(f"{path}: its first line {line.strip()[:60]!r} was altered")
    digest, beside, checked = sha256_of(path), path.with_suffix(".json"), ""
    if beside.is_file():
        stated = read_json(beside)
        if not isinstance(stated, dict) or "verilog" not in stated:
            raise InspectError(f"{beside}: is no manifest; it belongs to {path}")
        if stated["verilog"].get("sha256") != digest:
            raise InspectError(
                f"{path}: SHA-256 is {digest}, {beside} says {stated['verilog'].get('sha256')}; "
                "one of them was changed, export again"
            )
        checked = f"SHA-256 in {beside.name}"
    return FileReport(
        "Verilog of an accelerator",
        checked=checked,
        read_by="Vivado, Verilator, Icarus; lutvar sim makes its own",
        facts={"accelerator": match[1], "accelerator_hash": match[2], "sha256": digest},
    )


def manifest(path: Path, data: dict[str, Any]) -> FileReport:
    """The JSON beside the Verilog; the Verilog is compared where it is there."""
    stated = data["verilog"]
    verilog = path.with_name(Path(stated["file"]).name)
    checked = ""
    if verilog.is_file():
        if sha256_of(verilog) != stated["sha256"]:
            raise InspectError(
                f"{path}: {verilog} has another SHA-256 than it says; one of them was changed, "
                "export again"
            )
        checked = f"SHA-256 of {verilog.name}"
    return FileReport(
        "manifest of an accelerator's Verilog",
        checked=checked,
        read_by="lutvar vivado, drivers",
        facts={
            "verilog": stated["file"],
            "module": stated["module"],
            "quantization": data["quantization"],
            "formats": {
                key: value["name"] if isinstance(value, dict) else value
                for key, value in data["formats"].items()
            },
            "ports": len(data["ports"]),
            "registers": len(data["registers"]),
            "verilog_sha256": stated["sha256"],
            "tools": data["tools"],
        },
    )


def vivado_project(path: Path, data: dict[str, Any]) -> FileReport:
    """The manifest of a folder of `lutvar vivado`; the files that are there are compared."""
    return FileReport(
        "folder for Vivado (manifest of `lutvar vivado`)",
        str(data["format"]),
        checked=_compared(path, data["files"]),
        read_by="make in its folder",
        facts={
            "accelerator": data["name"],
            "accelerator_hash": data["accelerator_hash"],
            "board": data["board"],
            "mhz": data["mhz"],
            "placement": data["placement"],
            "segmented": data["segmented"],
            "files": len(data["files"]),
        },
    )


def vivado_build(path: Path, data: dict[str, Any]) -> FileReport:
    """The manifest that a build in Vivado left in its results."""
    keys = ("accelerator_hash", "vivado", "board_part", "clock_hz", "setup_slack_ns", "segmented")
    return FileReport(
        "results of a build in Vivado",
        str(data["format"]),
        checked=_compared(path, data["files"]),
        read_by="lutvar board install",
        facts={"accelerator": data["configuration"], **{key: data[key] for key in keys}},
    )


def _compared(path: Path, files: dict[str, str]) -> str:
    """Which files were compared with their SHA-256. Raises InspectError for another content."""
    there = [name for name in files if (path.parent / name).is_file()]
    for name in there:
        if sha256_of(path.parent / name) != files[name]:
            raise InspectError(
                f"{path}: {name} has another SHA-256 than it says; one of them was changed, "
                "write them again"
            )
    return f"SHA-256 of {len(there)} of {len(files)} files"


def inspect_sizes(path: Path) -> FileReport | None:
    """The YAML file of an accelerator, such as `lutvar explore --pick` writes; None: no such file.

    Raises ConfigError for sizes that cannot be.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.contract.identity import accelerator_hash

    with path.open("rb") as file:
        begin = file.read(1 << 14)
    if not all(re.search(rb"^%s: " % key, begin, re.MULTILINE) for key in (b"name", b"quant")):
        return None
    config = load_accelerator(path)
    return FileReport(
        "sizes of an accelerator (YAML)",
        checked="every size",
        read_by="--config",
        facts={
            "accelerator": config.name,
            "accelerator_hash": f"{accelerator_hash(config):016x}",
            "quantization": config.quant,
            "rows": config.rows,
        },
    )


def inspect_pass(path: Path) -> FileReport:
    """A compiled pass of the cache. Raises InspectError for a damaged one."""
    from lutvar.host.compile.pass_file import PAGE

    raw = path.read_bytes()
    try:
        head = json.loads(raw[:PAGE])
        stated, facts = head["sha256"], {key: head[key] for key in ("instructions", "cycles")}
    except (ValueError, KeyError, TypeError) as error:
        raise InspectError(f"{path}: a compiled pass whose head was altered ({error})") from error
    if hashlib.sha256(raw[PAGE:]).hexdigest() != stated:
        raise InspectError(f"{path}: a compiled pass that does not match its SHA-256; delete it")
    return FileReport(
        "compiled pass of the cache",
        str(head["format"]),
        "SHA-256 of program and notes",
        "every command that runs passes on a device",
        {**facts, "key": head["key"]},
    )


def inspect_program(path: Path) -> FileReport:
    """A program. Raises InspectError for a damaged one."""
    from lutvar.host.compile.program import Program

    try:
        program = Program.decode(path.read_bytes())
    except (ProgramError, ValueError) as error:
        raise InspectError(f"{path}: {error}") from error
    counts = Counter(item.opcode.name for item in program.instructions)
    return FileReport(
        "program of an accelerator",
        checked="every instruction",
        read_by="lutvar disassemble, Device.run",
        facts={
            "instructions": dict(counts),
            "accelerator_hash": f"{program.accelerator_hash:016x}",
            "model_hash": f"{program.model_hash:016x}",
        },
    )
