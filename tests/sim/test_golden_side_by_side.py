# SPDX-License-Identifier: Apache-2.0
"""The golden device and the simulated gateware on the same programs, right and malformed."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    PostOp,
    Region,
    address,
    decode,
)
from lutvar.contract.register_map import (
    DeviceError,
    HeaderRule,
    InstructionRule,
)
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.fuzz.contents import SIZES, Fill
from lutvar.sim.fuzz.malformed import bytes_of, malform, put, words_of
from lutvar.sim.fuzz.wellformed import Generator
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.transport import SimulatedMemory
from support.sim.device_rig import BUILD, exported
from support.sim.side_by_side import MEMORY, STARTS, Side

CONFIG = load_accelerator("small-fp4")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    verilog = exported(tmp_path_factory.getbasetemp().parent / "verilog").verilog
    simulated = VerilatedDevice.from_verilog(
        verilog, MEMORY, build_dir=BUILD, timing=MemoryTiming((4, 12))
    )
    golden = GoldenDevice(CONFIG, base=0, size=MEMORY)
    return Side(SimulatedMemory(simulated), CONFIG), Side(golden, CONFIG)


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_programs_do_the_same(sides: tuple[Side, Side], seed: int) -> None:
    """Memory, counters, interrupt and CTRL after right programs."""
    rng = np.random.default_rng(seed)
    made = Generator(CONFIG, rng, small=seed % 2 == 0).make(int(rng.integers(2, 16)))
    simulated, golden = (side.run(made.program.encode(), made.fills) for side in sides)
    assert simulated.done and golden.done and golden.interrupt
    assert golden.counters == simulated.counters
    assert (golden.error, golden.ctrl) == (simulated.error, simulated.ctrl) == ((0, 0), 0b1110)
    for region in Region:
        assert np.array_equal(golden.memory[region], simulated.memory[region]), region


@pytest.mark.verilator
@pytest.mark.slow
def test_random_refusals_are_the_same(sides: tuple[Side, Side]) -> None:
    """Programs with changes: the same error, where one alone is possible."""
    rng, seen = np.random.default_rng(3), set()
    judge = sides[1].transport._judge  # type: ignore[attr-defined]
    windows = [(at, at + SIZES[region]) for region, at in STARTS.items()]
    for _ in range(120):
        made = Generator(CONFIG, rng, small=True).make(6)
        raw = malform(rng, made.program.encode())
        words = [raw[i : i + 64] for i in range(0, len(raw), INSTRUCTION_BYTES)]
        verdict = judge.program(words, list(STARTS.values()), windows)
        if verdict.failure is None or verdict.failure.code not in (
            DeviceError.BAD_HEADER, DeviceError.BAD_INSTRUCTION
        ):  # fmt: skip
            continue
        index = verdict.failure.info & 0xFF_FFFF
        bad = verdict.failure.code is DeviceError.BAD_INSTRUCTION
        before = [decode(word, i) for i, word in enumerate(words[1 : index + 1])] if bad else []
        if any(judge.moves(item, list(STARTS.values()), windows)[0] for item in before):
            continue  # another error may come first
        simulated, golden = (side.run(raw, made.fills) for side in sides)
        assert golden.error == simulated.error and golden.interrupt and not golden.done
        assert golden.ctrl == simulated.ctrl == 0
        if golden.error[0] == DeviceError.OUTSIDE_PROG:
            continue  # a length past the window: words are read ahead of the one that is refused
        assert golden.error[0] == verdict.failure.code
        rule = golden.error[1] >> 24 if bad else golden.error[1]
        seen.add((HeaderRule if not bad else InstructionRule)(rule).name)
    assert len(seen) >= 8, seen


def _chain() -> list[Instruction]:
    """One of each unit but ATTEND: the sum of a row and products of nothing."""
    return [
        Instruction(Opcode.FETCH, {
            "address": 0, "beats": 140, "full": 1, "rest": 0, "panels": 1, "repeat": 1,
        }),
        Instruction(Opcode.FRONT, {
            "address": address(Region.WORK, 0), "stride": 256, "rows": 2, "row_first": 0,
            "bank": 0, "groups": 1, "norm": 0, "rotate": 0, "dual": 0, "scale": 0, "shift": 0,
            "inverse_width": 0, "epsilon": 0, "sections": 0, "terms": 0,
        }),
        Instruction(Opcode.MATRIX, {
            "bank": 0, "acc_bank": 0, "groups": 1, "blocks": 4, "dual": 0, "exponent": 0,
            "rows": 2, "more": 0, "sections": 0, "terms": 0,
        }, (0, 1, 0, 0, 0)),
        Instruction(Opcode.POST, {
            "acc_bank": 0, "row_group": 0, "row_first": 0, "rows": 2, "blocks": 1,
            "op": int(PostOp.ADD), "vector": 0, "scalar": 0x3C00,
            "output": address(Region.IO, 0x1000), "output_stride": 512,
            "input": address(Region.IO, 0), "input_stride": 512, "vector_address": 0, "heads": 0,
            "block_first": 0, "keys": 0, "values": 0, "head_stride": 0, "sections": 0, "shift": 0,
            "gate": 0, "sums": 0,
        }, (0, 0, 1, 0, 0)),
        Instruction(Opcode.END),
    ]  # fmt: skip


def _encoded(items: list[Instruction]) -> bytes:
    return Program(tuple(items), accelerator_hash(CONFIG)).encode()


#: What its program needs in memory: no number that is none.
FILLS = (
    Fill("panel", Region.MODEL, 0, 1, (128, 1)), Fill("half", Region.WORK, 0, 2, (256,)),
    Fill("float", Region.IO, 0, 3, (256,)),
)  # fmt: skip
#: Instruction, operand, region and offset of transfers that leave their window: in a second row, or
#: for the next window, which is no better.
OUTSIDE = [
    (0, "address", Region.MODEL, SIZES[Region.MODEL] - 64),
    (1, "address", Region.WORK, SIZES[Region.WORK] - 256),
    (3, "input", Region.IO, SIZES[Region.IO] - 64),
    (3, "output", Region.CACHE, SIZES[Region.CACHE] - 512),
]


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(OUTSIDE)))
def test_transfers_outside_are_refused_alike(sides: tuple[Side, Side], number: int) -> None:
    index, operand, region, offset = OUTSIDE[number]
    field = next(f for f in PAYLOAD_FIELDS[Opcode(index + 1)] if f.name == operand)
    words = words_of(_encoded(_chain()))
    words[index + 1] = put(words[index + 1], field, address(region, offset))
    # The regions lie one behind the other: of three the last line is closed.
    for side in sides:
        for other in Region:
            side.write64(f"LIMIT{int(other)}", STARTS[other] + SIZES[other] - 64 * (other != 2))
    simulated, golden = (side.run(bytes_of(words), FILLS) for side in sides)
    assert golden.error == simulated.error
    assert golden.error[0] >= DeviceError.OUTSIDE_PROG and golden.error[1] == (operand == "output")
    assert golden.address == simulated.address


@pytest.mark.verilator
@pytest.mark.slow
def test_wrong_numbers_of_beats_and_other_ends(sides: tuple[Side, Side]) -> None:
    """Weights that do not fit, a program outside, a program that never ends."""
    beats = next(f for f in PAYLOAD_FIELDS[Opcode.FETCH] if f.name == "beats")
    wait = next(f for f in HEADER_FIELDS if f.name == "wait_attend")
    right = words_of(_encoded(_chain()))
    for change, code in ((1, DeviceError.WEIGHTS_SURPLUS), (-1, DeviceError.WEIGHTS_MISSING)):
        words = list(right)
        words[1] = put(words[1], beats, 140 + change)
        simulated, golden = (side.run(bytes_of(words), FILLS) for side in sides)
        assert golden.error == simulated.error == (code, 2)
    words = list(right)
    words[2] = put(words[2], wait, 1)
    simulated, golden = (side.run(bytes_of(words), FILLS) for side in sides)
    assert golden.error[0] == simulated.error[0] == DeviceError.WATCHDOG
    for side in sides:
        side.write64("PROGRAM", STARTS[Region.CACHE] + SIZES[Region.CACHE])
    simulated, golden = (side.run(bytes_of(right), FILLS) for side in sides)
    assert golden.error == simulated.error == (DeviceError.OUTSIDE_PROG, 0)
    assert golden.address == simulated.address
    simulated, golden = (side.run(bytes_of(right), FILLS) for side in sides)
    assert golden.done and simulated.done and golden.counters == simulated.counters
    for region in Region:
        assert np.array_equal(golden.memory[region], simulated.memory[region]), region
