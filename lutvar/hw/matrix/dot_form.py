# SPDX-License-Identifier: Apache-2.0
"""The dot product of a row group: 16 token rows by one weight vector, in exchangeable forms.

A form keeps one operand (128 activation codes for each of 16 rows) while weight vectors pass, and
may take in the next operand meanwhile. It has no handshake: how long things take is constant and
declared, so that one sequencer drives all row groups, each some cycles after the one before.

Order of events for each operand, as seen at a form's ports (cycles are those in which the inputs
have the values):

1. `load` for each of the 8 words, in ascending order, at least `interval` cycles from one to
   the next.
2. `start` at the earliest `settle` cycles after the last word. It makes the operand current:
   vectors in the cycle of `start` and before belong to the operand before, vectors `fill`
   cycles after `start` and later belong to the new one; no vector that matters comes in between.
3. The first word of the next operand comes `hold` cycles after `start` at the earliest.

All four are at least 1. With `fill` = 1 no cycle is lost between two operands. A form that has to
fill tables may do it before `start` (two sets of tables, large `settle`) or after it (one set,
large `fill`).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP, AcceleratorConfig
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.widths import WORDS
from lutvar.hw.port_types import View
from lutvar.hw.units.product import make_product
from lutvar.hw.units.product_design import ProductDesign


def product_design(config: AcceleratorConfig) -> ProductDesign:
    """The lane product of a configuration's formats; it also says how wide sums are."""
    quant = config.quant_config
    return make_product(quant.weight_format, quant.plain_format, quant.dual_format)


def sum_bits(config: AcceleratorConfig) -> int:
    """Bits of the signed exact sum of a group: 16 for FP4, 20 for FP6."""
    return product_design(config).sum_bits(GROUP)


class WeightRecoder(wiring.Component):
    """Base: recodes weight vectors, once for all row groups. One in each cycle, no handshake."""

    codes: Signal  #: in: 128 codes of b bits, element 0 lowest
    operand: Signal  #: out: what `GroupDot.weights` takes; any number of bits

    latency: int  #: cycles from codes to operand, at least 1 (`operand` is a register)


class GroupDot(wiring.Component):
    """Base: exact dot products of 16 rows. The signature is `group_dot_members`."""

    load_valid: Signal  #: in: a word of the next operand is here
    load_word: Signal  #: in: which: elements `16 k .. 16 k + 15`; k = 0..7
    load_codes: Signal  #: in: 16 codes of b bits of each row, row 0 and element 0 lowest
    load_dual: Signal  #: in: with the word: the codes are of the dual format
    #: in: with the word: the dual format's pass over the negative half. Codes of the other half
    #: count as 0. Ignored unless `load_dual`
    load_negative: Signal
    start: Signal  #: in: the operand becomes current, see the module
    weights: Signal  #: in: a recoded weight vector in each cycle
    sums: View  #: out: `latency` cycles after `weights`: the signed sum of each row

    # Cycles, see the module; constant for a configuration.
    latency: int  #: from `weights` to `sums`
    interval: int  #: from word to word, at least
    settle: int  #: from the last word to `start`, at least
    fill: int  #: from `start` to the first vector, at least
    hold: int  #: from `start` to the first word of the next operand, at least


def group_dot_members(config: AcceleratorConfig, weight_bits: int) -> dict[str, Any]:
    """Signature members of a `GroupDot`; `weight_bits`: width of a recoded vector."""
    return {
        "load_valid": In(1),
        "load_word": In(range(WORDS)),
        "load_codes": In(ROW_GROUP * LANES * config.quant_config.code_bits),
        "load_dual": In(1),
        "load_negative": In(1),
        "start": In(1),
        "weights": In(weight_bits),
        "sums": Out(data.ArrayLayout(signed(sum_bits(config)), ROW_GROUP)),
    }
