# SPDX-License-Identifier: Apache-2.0
"""Every error that the core reports is provoked, and SOFT_RESET brings the core back each time."""

import cocotb

from lutvar.contract.registers import BY_NAME, ErrorCode

from .cases import make_case, run_case
from .common import Bench

ERROR = 1 << next(f.low for f in BY_NAME["ISR"].fields if f.name == "error")
WATCHDOG_CYCLES = 120


async def recover(bench: Bench, seed: int) -> None:
    """SOFT_RESET clears error, status and counters; then a job must be right."""
    await bench.soft_reset()
    for name in ("ERROR", "ERROR_INFO", "ISR", "JOBS", "BEATS_ACT", "BEATS_OUT", "CYCLES_LO"):
        assert await bench.read(name) == 0, f"{name} is not 0 after SOFT_RESET"
    assert await bench.read("CTRL") == BY_NAME["CTRL"].reset
    await run_case(bench, make_case(bench, seed, vectors=1, groups=2, site="qkv"))
    await bench.wait_for("CTRL", "idle")
    assert await bench.read("JOBS") == 1 and await bench.read("ERROR") == 0


def bad_arguments(bench: Bench) -> list[tuple[str, dict[str, int]]]:
    hardware = bench.hardware
    rows, most = hardware.token_rows, hardware.max_groups
    cases = [
        ("ROWS", {"ROWS": 0}),
        ("ROWS", {"ROWS": (hardware.buffer_vectors // most + 1) * rows, "GROUPS": most}),
        ("ROWS", {"ROWS": 0xFFFFFFFF // rows * rows}),
        ("GROUPS", {"GROUPS": 0}),
        ("GROUPS", {"GROUPS": most + 1}),
        ("TILES", {"TILES": 0}),
        ("SCALE_EXP", {"SCALE_EXP": 32}),
        ("SCALE_EXP", {"SCALE_EXP": -33}),
    ]
    if rows > 1:
        cases.append(("ROWS", {"ROWS": rows + 1}))
    if bench.quant.dual_format is None:
        cases.append(("FLAGS", {"FLAGS": 2}))
    return cases


@cocotb.test()
async def bad_arguments_are_named(dut) -> None:
    """A job with a bad argument never starts; ERROR_INFO is the offset of the register."""
    bench = await Bench.start(dut)
    await bench.write("GIE", 1)
    await bench.write("IER", ERROR)
    good = {"ROWS": bench.hardware.token_rows, "GROUPS": 1, "TILES": 1, "FLAGS": 0, "SCALE_EXP": 0}
    for name, change in bad_arguments(bench):
        await bench.start_job(good | change)
        await bench.expect_error(ErrorCode.BAD_ARGUMENT, BY_NAME[name].offset)
        assert dut.interrupt.value
        await bench.write("CTRL", 1)  # ignored: the core has halted
        await bench.soft_reset()
        assert await bench.field("CTRL", "idle") and not dut.interrupt.value
    await recover(bench, 51)


@cocotb.test()
@cocotb.parametrize(stream=["act", "wgt"], late=[False, True])
async def wrong_tlast(dut, stream: str, late: bool) -> None:
    """TLAST one beat early, and missing on the last beat."""
    bench = await Bench.start(dut)
    case = make_case(bench, 61, vectors=2, groups=1, site="proj")
    packet = case.act if stream == "act" else case.wgt
    size = bench.size
    wrong = packet + bytes(size) if late else packet[:-size]
    packets = {"act": case.act, "wgt": case.wgt, stream: wrong}
    await bench.start_job(case.arguments)
    await bench.feed(packets["act"], packets["wgt"])
    beats = len(packet) // size - (not late)
    await bench.expect_error(ErrorCode[f"FRAME_{stream.upper()}"], beats)
    await recover(bench, 62)


@cocotb.test()
async def nonfinite_activation(dut) -> None:
    """FP16 exponent 31 anywhere; ERROR_INFO is the index of its group."""
    bench = await Bench.start(dut)
    case = make_case(bench, 71, vectors=2, groups=2, site="qkv")
    group_bytes = bench.layout.act_group_beats * bench.size
    for bits, group in ((0x7C00, 0), (0xFE01, 3)):
        act = bytearray(case.act)
        act[group * group_bytes + 20 : group * group_bytes + 22] = bits.to_bytes(2, "little")
        await bench.start_job(case.arguments)
        await bench.feed(bytes(act), case.wgt)
        await bench.expect_error(ErrorCode.NONFINITE, group)
        await bench.soft_reset()
    await recover(bench, 72)


@cocotb.test()
@cocotb.parametrize(stalled=["act", "wgt", "out"])
async def watchdog(dut, stalled: str) -> None:
    """A stream that stops for good ends in STALL with the state of that moment."""
    bench = await Bench.start(dut)
    await bench.write("WATCHDOG", WATCHDOG_CYCLES)
    case = make_case(bench, 81, vectors=2, groups=1, site="proj")
    await bench.start_job(case.arguments)
    await bench.feed(case.act, case.wgt)
    await bench.cycles(5)  # in the middle of both packets, before any result
    getattr(bench, stalled).pause = True
    await bench.expect_error(ErrorCode.STALL, None, limit=WATCHDOG_CYCLES)
    state = await bench.read("ERROR_INFO")
    field = BY_NAME["STATE"].field_value
    if stalled == "out":
        assert field(state, "out_valid") and not field(state, "out_ready")
    else:
        assert not field(state, f"{stalled}_valid") and field(state, f"{stalled}_ready")
    getattr(bench, stalled).pause = False
    await recover(bench, 82)


@cocotb.test()
@cocotb.parametrize(hard=[False, True])
async def reset_in_the_middle(dut, hard: bool) -> None:
    """SOFT_RESET or ap_rst_n at different moments of a job; the next job must be right."""
    bench = await Bench.start(dut)
    case = make_case(bench, 91, vectors=2, groups=2, tiles=2, site="fc2")
    for moment in (7, 40, 75):
        await bench.start_job(case.arguments)
        await bench.feed(case.act, case.wgt)
        await bench.cycles(moment)
        if hard:
            for model in (bench.act, bench.wgt, bench.out):
                model.clear()
            await bench.reset()
            for model in (bench.act, bench.wgt, bench.out):
                model.clear()
        else:
            await bench.soft_reset()
        assert await bench.read("CTRL") == BY_NAME["CTRL"].reset
        assert await bench.read("BEATS_ACT") == 0
    await recover(bench, 92)
