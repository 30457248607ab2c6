# SPDX-License-Identifier: Apache-2.0
"""An instruction as the three parts of POST see it: what to drain, read, compute and write."""

from __future__ import annotations

from enum import IntEnum

from amaranth.lib import data

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.links import BEAT_ADDRESS, sections_bits

STRIDE = 24 - 6  #: bits of a stride in beats
PARTS = GROUP // LANES  #: parts of 16 columns in a row of a block, each a beat of float32
VECTOR_BEATS = GROUP * 2 // 64  #: beats of a block's factors g
ROW_BEATS = GROUP * 4 // 64  #: beats of a row of a block in float32


class Path(IntEnum):
    """Which results of the lanes are written, and how many parts make a beat."""

    SUM = 0  #: STORE and ADD: every part of 16 values is a beat
    GELU = 1  #: two parts, which enter together
    RECORD = 2  #: four parts, in two cycles
    NORM = 3  #: two parts, one after the other; no accumulators
    COLUMNS = 4  #: sums of columns: each cycle a beat of four of them; no accumulators


def drain_order(config: AcceleratorConfig) -> data.StructLayout:
    """Blocks of a layer part; with s sections, block c is block `c // s` of section `c % s`.

    row_group: within each section.
    """
    return data.StructLayout(
        {
            "bank": range(config.acc_banks),
            "row_group": range(max(2, config.row_groups)),
            "blocks": 8,
            "sections": sections_bits(config),
        }
    )


def operand_order() -> data.StructLayout:
    """What to read: for each of the first `vector_blocks` blocks the factors; for each block with
    `shift` its shifts and with `add` all rows at `input`. Addresses and strides in beats."""
    return data.StructLayout(
        {
            "add": 1, "shift": 1, "rows": 5, "blocks": 8, "vector_blocks": 8,
            "vector": BEAT_ADDRESS, "shifts": BEAT_ADDRESS, "input": BEAT_ADDRESS,
            "input_stride": STRIDE,
        }
    )  # fmt: skip


def job_order() -> data.StructLayout:
    """What to compute and where to write it. Addresses and strides in beats.

    `row_blocks` blocks come first whose results belong to rows (`output`; all but those of k
    and v), then blocks of v and k. `keys` and `values` are of the first such block's head.
    """
    return data.StructLayout(
        {
            "path": Path, "add": 1, "vector": 1, "shift": 1, "gate": 1, "sums": 2, "scalar": 16,
            "row_first": 4, "rows": 5, "blocks": 8, "row_blocks": 8, "output": BEAT_ADDRESS,
            "output_stride": STRIDE,
            "keys": BEAT_ADDRESS, "values": BEAT_ADDRESS, "head_stride": STRIDE,
        }
    )  # fmt: skip


def job_layout() -> data.StructLayout:
    """One row of a block, or its half: parts `4 * upper ..`, 8 of them when `whole`, else 4.

    Sums, NORM and COLUMNS take a cycle for each part, the other paths for two. A job of COLUMNS is
    a quarter of a block.

    alone: values do not come from the accumulators. single: a part a cycle. pairs, fours: so many
    parts are a beat, and do not enter together. release: the block is not needed afterwards.
    request: a write of `beats` beats begins with this job. last: of its instruction.
    """
    return data.StructLayout(
        {
            "path": Path, "kind": 2, "add": 1, "vector": 1, "shift": 1, "gate": 1, "sums": 2,
            "scalar": 16, "row": 4, "upper": 1, "whole": 1, "release": 1, "last": 1, "request": 1,
            "alone": 1, "single": 1, "pairs": 1, "fours": 1, "address": BEAT_ADDRESS, "beats": 5,
        }
    )  # fmt: skip
