# SPDX-License-Identifier: Apache-2.0
"""Heads of q, k and v to records: quantize 64 values, then the scale (contract, section 10)."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM, ROW_GROUP
from lutvar.contract.formats import NumberFormat
from lutvar.contract.memory import RECORD_BYTES, SCALE_BYTE
from lutvar.hw.units.float_steps import BIAS, FRACTION, normalise_step
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.units.quantizer import Quantizer
from lutvar.hw.units.rsqrt import Rsqrt
from lutvar.hw.units.tables import lookup

from .multiply_add import HALF_AS_FLOAT, HALF_BITS
from .transpose import PART

BEATS = HEAD_DIM // PART  #: beats of a head


class Kind(IntEnum):
    """What a record holds."""

    Q = 0
    K = 1
    V = 2


def tag_layout() -> data.StructLayout:
    """Which record comes: its kind and the factor of its scale (1 for K), which was FP16: the
    upper bits of its float32."""
    return data.StructLayout({"kind": 2, "kappa": HALF_AS_FLOAT})


class SquareSum(wiring.Component):
    """`N`: the sum of squares of the grid integers of 64 codes, as float32 (exact)."""

    LATENCY = PART.bit_length() + 4  #: the tree, the total, three steps that normalise

    codes: Signal  #: in: 32 codes; two such beats are a head
    valid: Signal  #: in: a beat is here
    total: Signal  #: out: the sum, float32, `LATENCY` cycles after the second beat
    done: Signal  #: out: one cycle for it

    def __init__(self, fmt: NumberFormat) -> None:
        self.fmt = fmt
        super().__init__(
            {"codes": In(PART * fmt.bits), "valid": In(1), "total": Out(32), "done": Out(1)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt = self.fmt
        squares = [magnitude**2 for magnitude in fmt.positive.magnitudes]
        width = max(squares).bit_length()
        values: Sequence[Value] = [
            lookup(self.codes.word_select(k, fmt.bits)[:-1], squares, width) for k in range(PART)
        ]
        level = 0
        while True:
            level_sums = Signal(
                len(values) * len(values[0]), name=f"level_{level}", reset_less=True
            )
            m.d.sync += level_sums.eq(Cat(*values))
            words = [level_sums.word_select(k, len(values[0])) for k in range(len(values))]
            if len(words) == 1:
                break
            values = [(a + b) for a, b in zip(words[::2], words[1::2], strict=True)]
            level += 1

        valid = valid_line(m, self.valid, level + 1, "valid")
        position = Signal(range(BEATS))
        total = Signal((HEAD_DIM * max(squares)).bit_length(), reset_less=True)
        history = valid_line(m, valid[-1] & (position == BEATS - 1), 4, "history")
        with m.If(valid[-1]):
            m.d.sync += [
                total.eq(Mux(position == 0, 0, total) + words[0]),
                position.eq(position + 1),
            ]

        value: Value = total
        left: Value = Const(0, 1)
        for unit, ways, name in ((8, 4, "by8"), (2, 4, "by2"), (1, 2, "by1")):
            value, count = normalise_step(m, value, unit, ways, name)
            shifted = Signal(len(value), name=f"value_{name}", reset_less=True)
            counted = Signal(5, name=f"left_{name}", reset_less=True)
            m.d.sync += [shifted.eq(value), counted.eq(left + count * unit)]
            value, left = shifted, counted
        exponent = (BIAS + len(value) - 1 - left)[:8]
        fraction = Cat(Const(0, FRACTION + 1 - len(value)), value[:-1])
        m.d.comb += [
            self.total.eq(Mux(value[-1], Cat(fraction, exponent), 0)),
            self.done.eq(history[-1]),
        ]
        return m


class RecordMaker(wiring.Component):
    """Turns heads of 64 FP16 values into records.

    A K record repeats the scale of a V record: V records come before the K records of the same
    heads, in the same order, at most 16 ahead.

    Latency: `LATENCY` cycles from a head's first beat, when its second follows at once.
    Throughput: one beat in each cycle. Nothing is ever refused. Cost: 32 lanes of the quantizer, 4
    DSPs and 1 BRAM36 besides.

    Args:
        near: cycles from `near` to `done`.
    """

    #: From squares.done to the record's scale.
    _SCALE_LATENCY = Rsqrt.LATENCY + Fp32Multiply.LATENCY + Fp32ToFp16.LATENCY
    LATENCY = (
        2 * BEATS - 1 + Quantizer.LATENCY + (PART - 1).bit_length()
        + SquareSum.LATENCY + _SCALE_LATENCY + 1
    )  # fmt: skip
    #: Heads between `tag` and `record` at most, with a tag up to 16 cycles early.
    UNDER_WAY = 32
    assert BEATS * UNDER_WAY > LATENCY + 16

    tag: In(tag_layout())  #: what the next head is; not after its first beat
    tag_valid: In(1)  #: a tag is here
    values: In(PART * 16)  #: 32 FP16 patterns; two beats are a head
    valid: In(1)  #: a beat is here
    record: Out(RECORD_BYTES * 8)  #: 512 bits as they lie in memory
    done: Out(1)  #: one cycle for each record
    near: Out(1)  #: one cycle, this many cycles before a record's `done`

    def __init__(self, fmt: NumberFormat, near: int) -> None:
        self.fmt, self.near_cycles = fmt, near
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt = self.fmt
        m.submodules.quantizer = quantizer = Quantizer(PART, fmt, None, group=HEAD_DIM)
        m.submodules.squares = squares = SquareSum(fmt)
        quantized = quantizer.o.payload
        codes = Value.cast(quantized.codes)
        m.d.comb += [
            Value.cast(quantizer.i.payload).eq(self.values),  # flags 0
            quantizer.i.valid.eq(self.valid),  # never refused: the output is always taken
            quantizer.o.ready.eq(1),
            squares.codes.eq(codes),
            squares.valid.eq(quantizer.o.valid),
        ]

        # The codes of a head wait for its scale.
        position = Signal(range(BEATS))
        quantized_head = Signal(HEAD_DIM * fmt.bits, name="head", reset_less=True)
        amax = Signal(16, name="peak", reset_less=True)
        latency = self._SCALE_LATENCY
        second_beat = quantizer.o.valid & (position == BEATS - 1)
        wait = valid_line(
            m, second_beat, SquareSum.LATENCY + latency + 1 - self.near_cycles, "wait"
        )
        complete = wait[0]
        m.d.comb += self.near.eq(wait[-1])
        with m.If(quantizer.o.valid):
            m.d.sync += [
                quantized_head.eq(Cat(quantized_head[len(codes) :], codes)),
                amax.eq(quantized.scale),
                position.eq(position + 1),
            ]
        done = Signal()
        waiting = self._line(m, "waiting", Cat(amax, quantized_head), complete, done)
        group_scale, head = waiting[:16], waiting[16:]

        # Reciprocal root of N, times kappa, rounded once.
        tag = data.View(tag_layout(), self._line(m, "tags", self.tag, self.tag_valid, squares.done))
        m.submodules.root = root = Rsqrt()
        m.submodules.product = product = Fp32Multiply(HALF_BITS, odd=True)
        m.submodules.convert = convert = Fp32ToFp16()
        m.d.comb += [
            root.x.eq(squares.total),
            product.x.eq(root.y),
            product.y.eq(
                Cat(Const(0, 32 - HALF_AS_FLOAT), delay(m, tag.kappa, Rsqrt.LATENCY, "kappa_line"))
            ),
            convert.x.eq(product.s),
        ]
        history = valid_line(m, squares.done, latency, "history")
        m.d.comb += done.eq(history[-1])
        late = delay(m, Cat(squares.total.any(), tag.kind), latency, "late")
        some, kind = late[0], late[1:]

        # The record, one cycle later.
        scale = Mux(kind == Kind.V, group_scale, Mux(some, convert.y, 0))
        keys, values = done & (kind == Kind.K), done & (kind == Kind.V)
        follow = self._line(m, "value_scales", scale, values, keys, depth=ROW_GROUP)
        codes_and_pad = Cat(head, Const(0, SCALE_BYTE * 8 - len(head)))
        m.d.sync += [
            self.done.eq(done),
            self.record.eq(Cat(codes_and_pad, scale, Mux(kind == Kind.K, follow, 0))),
        ]
        return m

    @staticmethod
    def _line(m: Module, name: str, value: Any, push: Value, pop: Value, depth: int = 0) -> Value:
        """A queue in LUTRAM without checks; the head of it."""
        value = Value.cast(value)
        queue = memory.Memory(
            shape=unsigned(len(value)),
            depth=depth or RecordMaker.UNDER_WAY,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        m.submodules[name] = queue
        write, read = queue.write_port(), queue.read_port(domain="comb")
        m.d.comb += [write.en.eq(push), write.data.eq(value)]
        m.d.sync += [write.addr.eq(write.addr + push), read.addr.eq(read.addr + pop)]
        return read.data
