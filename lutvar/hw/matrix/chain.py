# SPDX-License-Identifier: Apache-2.0
"""What travels from row group to row group, one register each: vectors, loads and writes."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.links import sections_bits


def operand_words(config: AcceleratorConfig) -> int:
    """Words of 16 codes of one row in all activation banks."""
    return config.act_banks * config.bank_groups * WORDS


def word_bits(config: AcceleratorConfig) -> int:
    """Bits of a stored word: 16 codes, then 8 bits of the group's scales."""
    return LANES * config.quant_config.code_bits + 8


def marks_layout() -> data.StructLayout:
    """Which of the other parts count in this cycle.

    vector, load, write: the part of that name is valid. start: see `dot_form`.
    """
    return data.StructLayout({"vector": 1, "start": 1, "load": 1, "write": 1})


def vector_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What belongs to a weight vector beside its codes.

    first: the sum starts from `bias`. bank, column: which accumulators. ws: FP16 scale.
    """
    return data.StructLayout(
        {
            "first": 1,
            "bank": range(config.acc_banks),
            "column": range(config.acc_depth),
            "exponent": signed(6),
            "ws": 16,
            "bias": 32,
        }
    )


def load_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Read a word of all rows: its address in the banks, its place in the group, which half."""
    return data.StructLayout(
        {"address": range(operand_words(config)), "word": range(WORDS), "dual": 1, "negative": 1}
    )


def write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Write a word of one row, in the row groups of all sections that have it."""
    return data.StructLayout(
        {
            "row": range(config.rows),
            "address": range(operand_words(config)),
            "data": word_bits(config),
            "sections": sections_bits(config),
        }
    )
