# SPDX-License-Identifier: Apache-2.0
"""Records of evidence: a JSON file and a log for each item, and whether they are still true.

A record's key holds all that its result depends on: the item, lutvar's version, the contract's hash
of the accelerator and the SHA-256 of its Verilog. A record with another key is stale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import lutvar
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.files import finite, json_text, write_file
from lutvar.sim.tools import versions

from .items import Item
from .run import Outcome, host

FORMAT = "lutvar-evidence-1"
Record = dict[str, Any]


class EvidenceError(ValueError):
    """A record that cannot be used; the message names the file."""


def key_of(item: Item, verilog_sha256: str) -> Record:
    """What the result of an item depends on, as plain data."""
    key = {
        "item": item.definition,
        "lutvar": lutvar.__version__,
        "contract": f"{accelerator_hash(load_accelerator(item.config)):016x}",
        "verilog": verilog_sha256,
    }
    result: Record = json.loads(json_text(key))  # tuples become lists, as in a file
    return result


def record_of(item: Item, key: Record, outcome: Outcome) -> Record:
    """The record of a finished run."""
    tools = {t.name: t.found for t in versions() if t.name in ("verilator", "c++ compiler")}
    return {
        "format": FORMAT,
        "name": item.name,
        "what": item.work.what,
        "config": item.config,
        "ok": outcome.ok,
        "key": key,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": host(),
        "tools": tools,
        "values": sum(outcome.compared.values()),
        "values_different": sum(outcome.different.values()),
        **finite(asdict(outcome)),
    }


def read_record(folder: Path, item: Item) -> Record | None:
    """The record of an item in a folder, or None.

    Raises:
        EvidenceError: a file that is no record.
    """
    path = folder / f"{item.name}.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["name"] != item.name:
            raise ValueError("of another format or item")
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path} is no record of {item.name} ({error}); delete it") from None
    result: Record = record
    return result


def write_record(folder: Path, item: Item, record: Record) -> None:
    """Write a record beside the item's log."""
    write_file(folder / f"{item.name}.json", json_text(record, indent=1) + "\n")


def read_lines(path: Path) -> list[Record]:
    """Records of a file of JSON lines, as `docs/evidence.jsonl` is."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records: list[Record] = [json.loads(line) for line in lines]
        if any(record["format"] != FORMAT for record in records):
            raise ValueError("a line of another format")
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path}: no records of evidence ({error})") from None
    return records


def lines(records: Sequence[Record]) -> str:
    """Records as JSON lines."""
    return "".join(json_text(record) + "\n" for record in records)
