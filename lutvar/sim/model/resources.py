# SPDX-License-Identifier: Apache-2.0
"""Resources of a configuration, added up from synthesised units, against the device's limits.

LUTs, DSPs and memories of each unit are Yosys figures for UltraScale+ (`measure`): of its size, or
a mean of those of other sizes, and each line says which. The array is what MATRIX has once, and its
row groups. Banks are counted from their sizes: activation words in block
RAM, accumulators in UltraRAM. Nothing of this has been placed on a Versal device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lutvar.contract.accelerator import LANES, ROW_GROUP, AcceleratorConfig
from lutvar.contract.unit_costs import UnitEstimate, UnitPoint, estimate_unit, load_points

#: What XCVC1902 has, and the share of it that may be used.
DEVICE = {"lut": (899_840, 0.70), "dsp": (1968, 0.75), "bram36": (967, 0.80), "uram": (463, 0.80)}
KINDS = tuple(DEVICE)


@dataclass(frozen=True)
class Line:
    """One unit's share.

    Attributes:
        amounts: by kind; `None` where there is no figure.
        source: where they come from.
        how: as in `UnitEstimate`; "counted" from sizes; "missing".
        levels: LUT levels of its longest path; None where there is no figure.
    """

    unit: str
    amounts: dict[str, int | None]
    source: str
    how: str
    levels: int | None = None


@dataclass(frozen=True)
class Resources:
    """All lines, and their sum against the limits. `complete`: no figure is missing."""

    lines: tuple[Line, ...]

    def total(self, kind: str) -> int:
        """Amount of all units with a figure of this kind."""
        return sum(line.amounts.get(kind) or 0 for line in self.lines)

    @property
    def synthesised(self) -> bool:
        """Every unit was synthesised at this very size."""
        return all(line.how in ("synthesised", "counted") for line in self.lines)

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
            "synthesised": self.synthesised,
            "units": {
                line.unit: {**line.amounts, "source": line.source, "how": line.how,
                            "levels": line.levels}
                for line in self.lines
            },
            "total": {
                kind: {"used": self.total(kind), "limit": self.limit(kind),
                       "missing": self.missing(kind)}
                for kind in KINDS
            },
        }  # fmt: skip


#: Units that every build has once.
_SINGLE = {"sequencer": "sequencer", "control": "control", "fetch": "FETCH", "front": "FRONT",
           "post": "POST", "attend": "ATTEND"}  # fmt: skip
#: From the worst to the best; a sum is as good as its worst part.
_HOW = ("extrapolated", "interpolated", "near", "synthesised")


@cache
def _shipped_points() -> tuple[UnitPoint, ...]:
    """The points that come with the package, read once: searches ask very often."""
    return tuple(load_points())


def resources(config: AcceleratorConfig, points: Sequence[UnitPoint] | None = None) -> Resources:
    """Add up the resources of a configuration.

    Args:
        points: synthesised units; default: those that come with the package.
    """
    known = _shipped_points() if points is None else points

    def unit(name: str) -> UnitEstimate | None:
        return estimate_unit(name, config, known)

    lines = [_line(_label(name, config), {name: unit(name)}) for name in _SINGLE]
    parts = {"matrix": unit("matrix"), "row_group": unit("row_group")}
    title = f"MATRIX, {config.row_groups} row groups"
    more = {"matrix": 1, "row_group": config.row_groups}
    array = _line(title, parts, more, ("lut", "dsp"))
    if (matrix := parts["matrix"]) is not None:
        # Queues of the weights. Those of the row groups are banks, counted from their sizes.
        array.amounts["bram36"] = round(matrix.amounts["bram36"])
    lines.append(array)
    return Resources((*lines, _banks(config)))


def _label(name: str, config: AcceleratorConfig) -> str:
    rows = f", {config.attention_rows} query rows" if name == "attend" else ""
    return _SINGLE[name] + rows


def _line(
    label: str, parts: Mapping[str, UnitEstimate | None], times: Mapping[str, int] | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> Line:  # fmt: skip
    """The sum of some units, each so many times (once)."""
    every = [(part, 1 if times is None else times[name]) for name, part in parts.items()]
    found = [(part, n) for part, n in every if part is not None]
    if len(found) < len(every):
        return Line(label, dict.fromkeys(("lut", "dsp"), None), "not synthesised", "missing")
    amounts: dict[str, int | None] = {
        kind: round(sum(part.amounts[kind] * n for part, n in found)) for kind in kinds
    }
    worst, _ = min(found, key=lambda item: _HOW.index(item[0].how))
    levels = max(part.levels for part, _ in found)
    return Line(label, amounts, worst.source, worst.how, levels)


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
    return Line("banks", amounts, "from sizes", "counted")
