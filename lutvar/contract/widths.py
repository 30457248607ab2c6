# SPDX-License-Identifier: Apache-2.0
"""Widths and latencies of the links between units, for gateware, compiler and cycle model."""

from __future__ import annotations

from .accelerator import LANES, ROW_GROUP, AcceleratorConfig
from .quant_preset import GROUP

WORDS = GROUP // LANES  #: words of 16 codes in a group
FRONT_SLOTS = 2  #: FRONT instructions in progress: a third one waits until the first is done
DRAIN_VALUES = 2 * ROW_GROUP  #: float32 values of a drain request: two columns of 16 rows
#: Cycles from a drain request to its values, without the chain of row groups.
DRAIN_LATENCY_BASE = 4


def drain_latency(config: AcceleratorConfig) -> int:
    """Cycles from a drain request to its values: the chain of row groups is part of it."""
    return DRAIN_LATENCY_BASE + 2 * config.row_groups
