# SPDX-License-Identifier: Apache-2.0
"""Check a job's arguments and turn them into what the engine counts with."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.registers import BY_NAME

SCALE_EXP_RANGE = range(-32, 32)  #: legal SCALE_EXP

Arguments = data.StructLayout({
    "rows": 32, "groups": 32, "tiles": 32, "rotate": 1, "dual": 1, "dump": 1, "scale_exp": 32,
})  # fmt: skip


class JobChecker(wiring.Component):
    """Takes one job's registers, checks every rule, passes the job on or names the bad register.

    Rules, in the order of the registers: ROWS is a positive multiple of T and ROWS / T * GROUPS
    fits the activation bank; GROUPS is 1 .. max_groups; TILES is positive and fits the engine's
    counter (not when dumping); the dual flag needs a dual format in the build; SCALE_EXP is -32 ..
    31 as a signed byte, sign-extended or not. The first bad register in that order is reported.

    Division by T and multiplication by GROUPS are sequential, one bit a cycle, so that any T works
    without a multiplier: as many cycles as T * buffer_vectors has bits, plus 3. They overlap with
    the job before.

    Args:
        hardware, quant: the build.
        job_shape: layout of the engine's job; fields rows (in row vectors), groups, tiles, rotate,
            dual, dump, scale_exp.

    Members:
        start: take ``arguments``; ignored while busy.
        arguments: contents of the argument registers.
        o: checked jobs.
        bad: high for one cycle when a job was refused (it is dropped).
        bad_offset: offset of the bad register, with ``bad``.
        busy: a job is held here.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig, job_shape):
        self._hardware = hardware
        self._has_dual = quant.dual_format is not None
        super().__init__(
            {
                "start": In(1),
                "arguments": In(Arguments),
                "o": Out(stream.Signature(job_shape)),
                "bad": Out(1),
                "bad_offset": Out(8),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        hardware = self._hardware
        token_rows, depth = hardware.token_rows, hardware.buffer_vectors
        steps = (token_rows * depth).bit_length()
        args = Signal(Arguments)
        job = self.o.payload

        dividend = Signal(steps)
        quotient = Signal(steps)
        remainder = Signal(range(token_rows))
        step = Signal(range(steps))
        trial = Signal(unsigned(len(remainder) + 1))
        fits = Signal()
        m.d.comb += [trial.eq(Cat(dividend[-1], remainder)), fits.eq(trial >= token_rows)]

        product = Signal(steps + len(job.groups))
        exponent = Signal(signed(8))
        m.d.comb += exponent.eq(args.scale_exp[:8])
        upper = args.scale_exp[8:]
        tiles_wide = args.tiles[len(job.tiles) :].any() if len(job.tiles) < 32 else Const(0)
        groups_bad = (args.groups == 0) | (args.groups > hardware.max_groups)
        rules = {
            "ROWS": (args.rows == 0) | args.rows[steps:].any() | (remainder != 0)
            | (quotient > depth) | (~groups_bad & (product > depth)),
            "GROUPS": groups_bad,
            "TILES": ~args.dump & ((args.tiles == 0) | tiles_wide),
            "FLAGS": Const(0) if self._has_dual else args.dual,
            "SCALE_EXP": (exponent < SCALE_EXP_RANGE.start) | (exponent >= SCALE_EXP_RANGE.stop)
            | ~((upper == 0) | (upper.all() & args.scale_exp[7])),
        }  # fmt: skip
        broken = Signal(len(rules))
        free = Signal()

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += free.eq(1)
                m.d.sync += [
                    args.eq(self.arguments),
                    dividend.eq(self.arguments.rows),
                    quotient.eq(0), remainder.eq(0), product.eq(0), step.eq(0),
                ]  # fmt: skip
                with m.If(self.start):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [
                    dividend.eq(dividend << 1),
                    quotient.eq(Cat(fits, quotient)),
                    remainder.eq(Mux(fits, trial - token_rows, trial)),
                    # GROUPS that is too large for the product is refused by its own rule.
                    product.eq((product << 1) + Mux(fits, args.groups[: len(job.groups)], 0)),
                    step.eq(step + 1),
                ]
                with m.If(step == steps - 1):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [broken.eq(Cat(rules.values()))]
                m.d.sync += [
                    job.rows.eq(quotient), job.groups.eq(args.groups), job.tiles.eq(args.tiles),
                    job.rotate.eq(args.rotate), job.dual.eq(args.dual), job.dump.eq(args.dump),
                    job.scale_exp.eq(exponent),
                ]  # fmt: skip
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(broken.any()):
                    m.d.comb += self.bad.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.d.comb += self.o.valid.eq(1)
                    with m.If(self.o.ready):
                        m.next = "IDLE"
        m.d.comb += self.busy.eq(~free)
        for index, name in reversed(list(enumerate(rules))):
            with m.If(broken[index]):
                m.d.comb += self.bad_offset.eq(BY_NAME[name].offset)
        return m
