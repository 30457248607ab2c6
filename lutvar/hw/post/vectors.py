# SPDX-License-Identifier: Apache-2.0
"""Vectors over columns that POST holds: factors and shifts of the blocks to come."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.units.count import Level
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.verilog import place

from .multiply_add import HALF_AS_FLOAT
from .orders import PARTS, VECTOR_BEATS

BLOCKS = 4  #: blocks whose vectors are held
COLUMNS = 2 * LANES  #: columns of a beat
WORDS = COLUMNS * HALF_AS_FLOAT  #: bits of a beat as float32

assert GROUP == VECTOR_BEATS * COLUMNS


class VectorStore(wiring.Component):
    """A ring of `BLOCKS` vectors of 128 columns in LUTRAM, written by beats, read by beats.

    `release` and `part` come when values enter the lanes; the vector is read up to `span` cycles
    later and keeps its place as long. Throughput: a beat written and one read in each cycle.
    Cost: LUTRAM of 16 x 608 bits.

    Args:
        span: cycles from `part` to its reading at most.
    """

    place: In(1)  #: a beat comes; `room` is set
    words: In(WORDS)  #: it, as float32, `Fp16ToFp32.LATENCY` cycles later
    room: Out(1)  #: there is place for a block
    some: Out(1)  #: the oldest block is here
    release: In(1)  #: the oldest block's last values enter
    oldest: Out(range(BLOCKS))  #: the oldest block's place
    read_place: In(range(BLOCKS))  #: block to read
    read_beat: In(range(VECTOR_BEATS))  #: beat of it
    read: Out(WORDS)  #: these words, in the same cycle

    def __init__(self, span: int) -> None:
        self.span = span
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.store = store = memory.Memory(
            shape=unsigned(WORDS),
            depth=BLOCKS * VECTOR_BEATS,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        write, read = store.write_port(), store.read_port(domain="comb")
        beat = Signal(range(VECTOR_BEATS))
        complete = Signal()
        # A block may enter the lanes from the next cycle on: it is read after it was written.
        whole = Level(m, "whole", BLOCKS, complete, self.release)
        freed = valid_line(m, self.release, self.span + 1, "freed")[-1]
        held = Level(m, "held", BLOCKS, complete, freed)
        m.d.comb += [
            self.room.eq(held.room),
            self.some.eq(whole.some),
            complete.eq(self.place & (beat == VECTOR_BEATS - 1)),
            write.en.eq(valid_line(m, self.place, Fp16ToFp32.LATENCY, "placed")[-1]),
            write.data.eq(self.words),
            read.addr.eq(Cat(self.read_beat, self.read_place)),
            self.read.eq(read.data),
        ]
        m.d.sync += [
            beat.eq(beat + self.place),
            write.addr.eq(write.addr + write.en),
            self.oldest.eq(self.oldest + self.release),
        ]
        return m


class VectorReader(wiring.Component):
    """Factors and shifts of the values that enter, when the lanes need them.

    Cost: two `VectorStore`, 33 conversions of 45 LUTs.

    Args:
        early: cycles from `fire` to `factors` for all but GELU.
        late: the same for GELU.
        shift_late: cycles from `fire` to `shifts` for GELU.
        shift_early: the same for NORM; None without it.
    """

    CONVERT = Fp16ToFp32.LATENCY

    beat: In(COLUMNS * 16)  #: FP16 numbers of 32 columns
    place_factors: In(1)  #: they are factors; `factors_room` is set
    place_shifts: In(1)  #: they are shifts; `shifts_room` is set
    factors_room: Out(1)  #: there is place for a block's factors
    shifts_room: Out(1)  #: there is place for a block's shifts
    factors_valid: Out(1)  #: the factors of the oldest block are here
    shifts_valid: Out(1)  #: its shifts are here
    factors_release: In(1)  #: the block's last values enter, they had factors
    shifts_release: In(1)  #: the block's last values enter, they had shifts
    fire: In(1)  #: values enter
    gelu: In(1)  #: for GELU
    part: In(range(PARTS))  #: which 16 columns, or the first 16 of 32
    vector: In(1)  #: factors are the vector, else the scalar
    scalar: In(16)  #: FP16 factor
    norm: In(1)  #: for NORM
    shift: In(1)  #: shifts are the vector, else +0
    #: factors of 32 columns, or in the lower half of 16; float32's upper bits
    factors: Out(WORDS)
    shifts: Out(WORDS)  #: shifts of 32 columns, or in the lower half of 16
    shifted: Out(1)  #: `shifts` belong to values for GELU or NORM that entered

    def __init__(
        self, early: int, late: int, shift_late: int, shift_early: int | None = None
    ) -> None:
        if early < self.CONVERT + 2 or not early < late <= shift_late + 1:
            raise ValueError(f"factors after {early} or {late}, shifts after {shift_late} cycles")
        self.early, self.late_cycles, self.shift_late = early, late, shift_late
        self.shift_early = shift_early
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        read_early, read_late = self.early - 2, self.late_cycles - 2
        read_shift = self.shift_late - 1
        m.submodules.factor_store = factors = VectorStore(read_shift)
        m.submodules.shift_store = shifts = VectorStore(read_shift)
        words = []
        for k in range(COLUMNS):
            convert = Fp16ToFp32()
            place(m, platform, f"convert_{k}", convert, "post_from_half")
            m.d.comb += convert.x.eq(self.beat.word_select(k, 16))
            words.append(convert.y[-HALF_AS_FLOAT:])
        for store, name in ((factors, "factors"), (shifts, "shifts")):
            m.d.comb += [
                store.place.eq(getattr(self, f"place_{name}")),
                store.words.eq(Cat(words)),
                store.release.eq(getattr(self, f"{name}_release")),
                getattr(self, f"{name}_room").eq(store.room),
                getattr(self, f"{name}_valid").eq(store.some),
            ]
        gelu = valid_line(m, self.fire & self.gelu, self.shift_late, "gelu_line")
        self._factors(m, factors, gelu, read_early, read_late)

        self._shifts(m, shifts, gelu, read_shift)
        return m

    def _shifts(self, m: Module, store: VectorStore, gelu: Signal, read_late: int) -> None:
        """Read, of NORM's choose the half: a register."""
        word: Value = Cat(self.part, store.oldest, self.shift)
        shifted: Value = gelu[-1]
        high: Value = Const(0)
        if self.shift_early is None:
            where = delay(m, word, read_late, "shift_where")
        else:
            read_early = self.shift_early - 1
            norm = valid_line(m, self.fire & self.norm, self.shift_early, "norm_line")
            early = delay(m, word, read_early, "shift_where")
            late = delay(m, early, read_late - read_early, "shift_where_late")
            is_early = norm[read_early - 1]
            where, high = Mux(is_early, early, late), is_early & early[0]
            shifted = shifted | norm[-1]
        m.d.comb += Cat(store.read_beat, store.read_place).eq(where[1:])
        words_read, half = Signal(WORDS, name="shifts_read", reset_less=True), WORDS // 2
        words = Cat(Mux(high, store.read[half:], store.read[:half]), store.read[half:])
        m.d.sync += words_read.eq(Mux(where[-1], words, 0))
        m.d.comb += [self.shifts.eq(words_read), self.shifted.eq(shifted)]

    def _factors(
        self, m: Module, store: VectorStore, gelu: Signal, read_early: int, read_late: int
    ) -> None:
        """Read, choose the half, choose between vector and scalar: two registers."""
        wait = read_late - read_early
        is_late = gelu[read_late - 1]
        m.submodules.scalar_convert = convert = Fp16ToFp32()
        m.d.comb += convert.x.eq(self.scalar)
        scalars = delay(m, convert.y[-HALF_AS_FLOAT:], read_early - self.CONVERT, "scalar_line")
        word = Cat(self.part, store.oldest, self.vector)
        early = Cat(delay(m, word, read_early, "where"), scalars)
        where = Mux(is_late, delay(m, early, wait, "where_late"), early)
        high, beat, vector = where[0], where[1:3], where[5]
        scalar = Signal(HALF_AS_FLOAT, name="scalar_now", reset_less=True)
        vector_now = Signal(reset_less=True)
        words = Signal(WORDS, name="factors_read", reset_less=True)
        half = WORDS // 2
        m.d.comb += Cat(store.read_beat, store.read_place).eq(Cat(beat, where[3:5]))
        m.d.sync += [
            words.eq(Cat(Mux(high, store.read[half:], store.read[:half]), store.read[half:])),
            scalar.eq(where[6:]),
            vector_now.eq(vector),
        ]
        chosen = Signal(WORDS, name="factors_now", reset_less=True)
        m.d.sync += chosen.eq(Mux(vector_now, words, scalar.replicate(COLUMNS)))
        m.d.comb += self.factors.eq(chosen)
