# SPDX-License-Identifier: Apache-2.0
"""What the memory ports must not do, and must not believe.

Transfers outside of the windows, answers that nothing has asked for, RLAST in the wrong place.
"""

from typing import Any

import cocotb

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.isa import PAYLOAD_FIELDS, Region, address, split_address
from lutvar.contract.register_map import DeviceError, ReadRule

from .common import BASES, PROGRAM, PROGRAM_SIZE, Testbench
from .errors import PORTS, USES, changed, port_key, recover, response_code, share_offset
from .units import SIZES, UnitsCase, make_units_case


def _outside(case: UnitsCase, port: str) -> tuple[bytes, int]:
    """A program whose first transfer on a port lies outside, and where it starts."""
    opcode, operand = USES[port_key(port)]
    index = next(i for i, one in enumerate(case.instructions) if one.opcode is opcode)
    operands = case.instructions[index].operands
    region, _ = split_address(operands[operand])
    end = SIZES[region] if region is not Region.CACHE else PROGRAM + PROGRAM_SIZE - BASES[region]
    # All but the transfer's first beat is outside; of a panel all but the ports' shares before.
    before = share_offset(operands, port)
    start = end - (before or BEAT_BYTES)
    item = next(f for f in PAYLOAD_FIELDS[opcode] if f.name == operand)
    raw = changed(case.raw, index + 1, item, address(region, start))
    return raw, BASES[region] + start + before


@cocotb.test()
@cocotb.parametrize(port=PORTS)
async def transfer_outside(dut: Any, port: str) -> None:
    """A transfer that leaves its window is told, and not one burst of it reaches memory."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 77)
    await case.open(tb)
    raw, where = case.raw, PROGRAM + PROGRAM_SIZE
    if port == "r_prog":
        await tb.write64("PROGRAM", where)
    else:
        raw, where = _outside(case, port)
    name, write = port_key(port)
    bursts = tb.memory.ports[name, write].bursts
    await tb.start_program(raw)
    info = await tb.expect_error(DeviceError[f"OUTSIDE_{name.upper()}"])
    assert info == write
    start = await tb.read64("ERROR_ADDRESS")
    assert start == where, f"ERROR_ADDRESS is {start:#x}; the transfer starts at {where:#x}"
    assert not tb.memory.strays, f"bursts outside memory: {tb.memory.strays}"
    found = tb.memory.ports[name, write].bursts[len(bursts) :]
    assert where not in found, f"a burst of the transfer was begun at {where:#x}"
    await tb.write64("PROGRAM", PROGRAM)
    await recover(tb, case)


@cocotb.test()
async def burst_attributes(dut: Any) -> None:
    """What every burst says besides address and length; a write is answered by its destination."""
    tb = await Testbench.start(dut)
    await tb.cycles(4)
    said = {"id": 0, "size": 6, "burst": 1, "lock": 0, "cache": 0b0010, "prot": 0, "qos": 0}
    for name, write in tb.memory.ports:
        for field, value in said.items():
            pin = f"m_axi_{name}_{'aw' if write else 'ar'}{field}"
            assert int(getattr(dut, pin).value) == value, f"{pin} is not {value:#x}"


@cocotb.test()
async def nothing_is_open_after_reset(dut: Any) -> None:
    """A driver that sets no LIMIT touches nothing."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 78)
    await case.open(tb)
    for region in Region:
        await tb.write64(f"LIMIT{int(region)}", 0)
    await tb.start_program(case.raw)
    assert await tb.expect_error(DeviceError.OUTSIDE_PROG) == 0
    assert not any(port.bursts for port in tb.memory.ports.values())
    await tb.soft_reset()
    await case.open(tb)
    await case.run(tb)


@cocotb.test()
async def unsolicited_answers(dut: Any) -> None:
    """Beats and responses that no burst has asked for are dropped, counted, and leave no trace."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 79)
    await case.open(tb)
    count = 0
    for number in range(3):
        for key in tb.memory.ports:
            tb.memory.unsolicited[key] = 20
            count += 20
        await tb.cycles(60)
        assert not any(tb.memory.unsolicited.values())
        assert await tb.read("UNSOLICITED") == count
        assert not await tb.read("ERROR")
        await case.run(tb)
        assert await tb.read("UNSOLICITED") == count
        if number == 1:
            await tb.soft_reset()


@cocotb.test()
@cocotb.parametrize(port=[p for p in PORTS if p.startswith("r_")], beats=[-1, 1, 3])
async def wrong_last(dut: Any, port: str, beats: int) -> None:
    """RLAST too early or too late is told with the start of the burst."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 80)
    await case.open(tb)
    key = port_key(port)
    tb.memory.wrong_last = {key: beats}
    await tb.start_program(case.raw)
    info = await tb.expect_error(response_code(port))
    assert info == ReadRule.LAST
    assert not tb.memory.wrong_last
    assert await tb.read64("ERROR_ADDRESS") in tb.memory.ports[key].bursts
    await recover(tb, case)
