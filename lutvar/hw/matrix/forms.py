# SPDX-License-Identifier: Apache-2.0
"""The forms of the dot product that a configuration can choose, and their timing."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.hw.inspection import for_inspection

from .da import DaGroupDot, DaWeightRecode
from .dot_form import GroupDot, WeightRecoder
from .table import TableGroupDot, TableWeightRecode


def make_weight_recoder(config: AcceleratorConfig) -> WeightRecoder:
    """The `WeightRecoder` that belongs to the configuration's form."""
    return DaWeightRecode(config) if config.dot == "da" else TableWeightRecode(config)


def make_group_dot(config: AcceleratorConfig) -> GroupDot:
    """The `GroupDot` of the configuration's form (`config.dot`)."""
    return DaGroupDot(config) if config.dot == "da" else TableGroupDot(config)


@dataclass(frozen=True)
class DotTiming:
    """Widths and cycles of a configuration's form, without building it; see `GroupDot`."""

    weight_bits: int
    recode_latency: int
    latency: int
    interval: int
    settle: int
    fill: int
    hold: int


def dot_timing(config: AcceleratorConfig) -> DotTiming:
    """What the units around a form need to know of it."""
    dot, recoder = (
        for_inspection(make_group_dot(config)),
        for_inspection(make_weight_recoder(config)),
    )
    return DotTiming(
        len(dot.weights), recoder.latency, dot.latency, dot.interval, dot.settle, dot.fill, dot.hold
    )
