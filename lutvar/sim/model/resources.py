# SPDX-License-Identifier: Apache-2.0
"""Resources of a configuration, added up from synthesised units, against the device's limits.

LUTs, DSPs and memories of each unit are Yosys figures for UltraScale+ (`measure`), for the largest
configuration; the array grows with its row groups, ATTEND with its query rows. Banks are counted
from their sizes: activation words in block RAM, accumulators in UltraRAM. Nothing of this has been
placed on a Versal device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lutvar.contract.accelerator import LANES, ROW_GROUP, AcceleratorConfig, load_accelerator
from lutvar.contract.costs import UnitCost, load_units

#: What XCVC1902 has, and the share of it that may be used.
DEVICE = {"lut": (899_840, 0.70), "dsp": (1968, 0.75), "bram36": (967, 0.80), "uram": (463, 0.80)}
REFERENCE = {"fp4": "vck190-fp4", "fp6": "vck190-fp6"}
KINDS = tuple(DEVICE)


@dataclass(frozen=True)
class Line:
    """One unit's share: amounts by kind; `None` where there is no figure."""

    unit: str
    amounts: dict[str, int | None]
    source: str


@dataclass(frozen=True)
class Resources:
    """All lines, and their sum against the limits. `complete`: no figure is missing."""

    lines: tuple[Line, ...]

    def total(self, kind: str) -> int:
        """Amount of all units with a figure of this kind."""
        return sum(line.amounts.get(kind) or 0 for line in self.lines)

    def missing(self, kind: str) -> list[str]:
        """Units without a figure of this kind."""
        return [line.unit for line in self.lines if line.amounts.get(kind, 0) is None]

    @staticmethod
    def limit(kind: str) -> int:
        """Amount of the device that a design may use."""
        count, share = DEVICE[kind]
        return int(count * share)

    def fits(self, kind: str) -> bool:
        """The total is within the limit."""
        return self.total(kind) <= self.limit(kind)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "modelled": True,
            "units": {line.unit: {**line.amounts, "source": line.source} for line in self.lines},
            "total": {
                kind: {"used": self.total(kind), "limit": self.limit(kind),
                       "missing": self.missing(kind)}
                for kind in KINDS
            },
        }  # fmt: skip


#: Units that every build has once.
_SINGLE = {"sequencer": "sequencer", "control": "control", "fetch": "FETCH", "front": "FRONT",
           "post": "POST"}  # fmt: skip


def resources(
    config: AcceleratorConfig, measured: Mapping[str, UnitCost] | None = None
) -> Resources:
    """Add up the resources of a configuration.

    Args:
        measured: costs of its units; default: those that come with the package, of the largest
            configuration in its formats.
    """
    reference = REFERENCE.get(config.quant, "")
    data = load_units(reference) if measured is None else measured
    lines = [_line(label, data, {name: 1.0}) for name, label in _SINGLE.items()]
    share = 1.0
    if "attend" in data:
        share = config.attention_rows / load_accelerator(reference).attention_rows
    lines.append(_line(f"ATTEND, {config.attention_rows} query rows", data, {"attend": share}))
    groups = {"matrix": 1.0, "row_group": config.row_groups - 1.0}
    # The array's own memories are its banks, counted from their sizes.
    array = _line(f"MATRIX, {config.row_groups} row groups", data, groups, ("lut", "dsp"))
    if all(name in data for name in groups):
        # The queues of the weights, which are there once.
        array.amounts["bram36"] = data["matrix"].bram36 - data["row_group"].bram36
    lines.append(array)
    return Resources((*lines, _banks(config)))


def _line(
    label: str, data: Mapping[str, UnitCost], times: Mapping[str, float],
    kinds: tuple[str, ...] = KINDS,
) -> Line:  # fmt: skip
    """The sum of some measured units, each so many times."""
    if any(name not in data for name in times):
        return Line(label, dict.fromkeys(("lut", "dsp"), None), "not synthesised yet")
    amounts: dict[str, int | None] = {
        kind: round(sum(getattr(data[name], kind) * n for name, n in times.items()))
        for kind in kinds
    }
    return Line(label, amounts, data[next(iter(times))].source)


def _banks(config: AcceleratorConfig) -> Line:
    """Memories of the row groups: activation words in block RAM, accumulators in UltraRAM."""
    words = 8 * config.act_banks * config.bank_groups
    width = LANES * config.quant_config.code_bits + 8
    # Yosys builds the deep memory of 2048 x 18. A BRAM36 is also two memories of 512 x 36.
    if config.serial_operands:
        bram = -(-ROW_GROUP * words // 2048) * -(-width // 18)
    else:
        bram = -(-(-(-words // 512) * -(-ROW_GROUP * width // 36)) // 2)
    uram = -(-config.acc_words // 4096) * -(-2 * 32 * ROW_GROUP // 72)
    groups = config.row_groups
    amounts: dict[str, int | None] = {"bram36": groups * bram, "uram": groups * uram}
    return Line("banks", amounts, "from sizes")
