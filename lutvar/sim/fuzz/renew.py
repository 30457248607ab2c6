# SPDX-License-Identifier: Apache-2.0
"""`python -m lutvar.sim.fuzz.renew FILE...`: cases of an earlier contract for the present one.

For a change of the contract that leaves the instruction words as they are (a new register, a new
rule). Headers of programs with the old hash get the new one; nothing else changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import PROGRAM_HEADER
from lutvar.contract.register_map import VERSION
from lutvar.files import json_text, write_file

from .malformed import get, put

_HASH = next(f for f in PROGRAM_HEADER if f.name == "hash")


def renew(path: Path) -> None:
    """Rewrite a case file for the present contract."""
    data = json.loads(path.read_text(encoding="utf-8"))
    new = accelerator_hash(AcceleratorConfig.model_validate(data["config"]))
    old = int(data["hash"], 16)
    for step in data["steps"]:
        word = int.from_bytes(bytes.fromhex(step["program"][0]), "little")
        if get(word, _HASH) == old:
            size = len(step["program"][0]) // 2
            step["program"][0] = put(word, _HASH, new).to_bytes(size, "little").hex()
    data |= {"version": VERSION, "hash": f"{new:016x}"}
    write_file(path, json_text(data, indent=1) + "\n")


if __name__ == "__main__":
    for _name in sys.argv[1:]:
        renew(Path(_name))
