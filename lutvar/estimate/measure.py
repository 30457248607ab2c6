# SPDX-License-Identifier: Apache-2.0
"""Synthesises the accelerator's units with Yosys: the figures that `resources` adds up.

    python -m lutvar.estimate.measure vck190-fp4 [UNIT ...]

writes ``lutvar/estimate/data/<config>.json``. It takes minutes to an hour for each unit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator

DATA = Path(__file__).parent / "data"
#: LUTs of a LUTRAM primitive, by the start of its name; a shift register is one LUT.
_MEMORY_LUTS = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM128": 4, "RAM256": 4,
                "RAM512": 8, "RAM": 2, "SRL": 1}  # fmt: skip


def _row_group(config: AcceleratorConfig) -> Any:
    from lutvar.hw.rows.row_group import RowGroup

    return RowGroup(config)


def _front(config: AcceleratorConfig) -> Any:
    from lutvar.hw.front.unit import FrontUnit

    return FrontUnit(config)


def _post(config: AcceleratorConfig) -> Any:
    from lutvar.hw.post.unit import PostUnit

    return PostUnit(config)


def _attend(config: AcceleratorConfig) -> Any:
    from lutvar.hw.attention.unit import AttendUnit

    return AttendUnit(config)


def _fetch(config: AcceleratorConfig) -> Any:
    from lutvar.hw.sequencer.fetch import FetchUnit

    return FetchUnit(config)


#: Name -> what to synthesise. ``row_group`` counts once for each 16 rows.
UNITS: dict[str, Callable[[AcceleratorConfig], Any]] = {
    "fetch": _fetch,
    "front": _front,
    "post": _post,
    "attend": _attend,
    "row_group": _row_group,
}


def _memory_luts(cells: dict[str, int]) -> int:
    total = 0
    for kind, count in cells.items():
        if kind.startswith(("RAM", "SRL")) and not kind.startswith("RAMB"):
            prefix = next(p for p in _MEMORY_LUTS if kind.startswith(p))
            total += count * _MEMORY_LUTS[prefix]
    return total


def measure(config: AcceleratorConfig, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Synthesise units; LUT, packed LUT estimate, FF and what else the mapping uses."""
    from lutvar.bench.synth import count_luts

    result = {}
    for name in names:
        # DSPs, block RAM, LUTRAM and shift registers are mapped, unlike for comparisons of LUTs.
        report = count_luts(UNITS[name](config), f"lutvar_{name}", options=(), timeout=7200)
        cells = report.cells
        result[name] = {
            "lut": report.luts_packed + _memory_luts(cells),
            "lut_unpacked": report.luts + _memory_luts(cells),
            "ff": report.ffs,
            "dsp": report.dsps,
            "bram36": cells.get("RAMB36E2", 0) + -(-cells.get("RAMB18E2", 0) // 2),
            "uram": cells.get("URAM288", 0),
            "source": f"{report.tool}, {report.family}",
        }
        print(name, result[name], flush=True)
    return result


def main(arguments: Sequence[str]) -> None:
    """Measure some units, all by default, and merge them into the configuration's file."""
    config = load_accelerator(arguments[0])
    path = DATA / f"{config.name}.json"
    data = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments[1:] or UNITS:
        data |= measure(config, [name])
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
