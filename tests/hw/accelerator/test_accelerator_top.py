# SPDX-License-Identifier: Apache-2.0
"""The accelerator's top with stand-in units: programs, errors, watchdog, resets, counters."""

import random

from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import UNITS, Instruction, Opcode, Region, address
from lutvar.contract.register_map import BY_NAME, MAGIC, DeviceError, InstructionRule
from support.hw.axi_memory import AxiMemory
from support.hw.program_cases import (
    BASES,
    END,
    operands,
    paired,
    program_bytes,
    random_program,
)
from support.hw.top import CONFIG, FOUR_PORTS, PROGRAM, Host, simulate


def _small(op: Opcode, seed: int = 0, **changes: int) -> Instruction:
    """A legal instruction that reads little."""
    values = operands(CONFIG, op, random.Random(seed))
    short = {"beats": 5, "panels": 2, "repeat": 1, "rows": 3, "row_first": 0}
    short |= {"groups": 1, "dual": 1}  # of MATRIX: 2 readings, as of FETCH
    short |= {"full": 1, "rest": 0, "sections": 0}
    values |= {k: v for k, v in short.items() if k in values}
    return Instruction(op, values | changes)


def _program(length: int, seed: int) -> list[Instruction]:
    found = []
    for number, instruction in enumerate(random_program(CONFIG, length, seed)[:-1]):
        found.append(_small(instruction.opcode, number))
        object.__setattr__(found[-1], "waits", instruction.waits)
    return _paired([*found, END])


def _paired(program: list[Instruction]) -> list[Instruction]:
    """With what its weights lack."""
    return paired(program, _small(Opcode.FETCH, 1), _small(Opcode.MATRIX, 1))


def test_programs_run_and_are_counted() -> None:
    program = _program(16, 1)

    async def scenario(host: Host) -> None:
        assert await host.read("MAGIC") == MAGIC
        digest = await host.read("HASH_LO") | await host.read("HASH_HI") << 32
        assert digest == accelerator_hash(CONFIG)
        assert await host.field("CAPS0", "rows") == CONFIG.rows
        assert await host.field("CAPS1", "acc_depth") == CONFIG.acc_depth
        assert await host.field("CAPS2", "max_keys") == CONFIG.max_keys
        assert await host.field("CAPS2", "weight_ports") == CONFIG.weight_ports
        assert await host.field("CAPS2", "max_sections") == CONFIG.max_sections
        await host.load()
        await host.write("IER", 1)
        await host.write("GIE", 1)
        assert await host.read("CTRL") == 0b1100
        for run in range(2):
            await host.write("MODE", run)
            await host.run()
            assert not await host.read("ERROR")
            assert await host.read("CTRL") == 0b1100  # reading cleared `done`
            assert host.ctx.get(host.core.interrupt)
            await host.write("ISR", 1)
            await host.tick(3)
            assert not host.ctx.get(host.core.interrupt)
            for u in UNITS:
                mine = sum(i.opcode.name == u.name for i in program)
                assert await host.read(f"INSTRUCTIONS_{u.name}") == mine
        assert await host.read("PROGRAMS") == 2
        cycles = await host.read("CYCLES_LO")
        assert await host.read("CYCLES_HI") == 0
        for u in UNITS:
            mine = sum(i.opcode.name == u.name for i in program)
            busy = await host.read(f"BUSY_{u.name}")
            assert (2 * mine * 20 if u.name != "FETCH" else mine) <= busy < cycles
        fetches = [i for i in program if i.opcode is Opcode.FETCH]
        beats = sum(10 * i.operands["repeat"] for i in fetches)
        assert await host.read("READ_BEATS_WGT") == 2 * beats
        assert await host.read("READ_BEATS_PROG") == 2 * (len(program) + 1)
        posts = sum(i.opcode is Opcode.POST for i in program)
        assert await host.read("WRITE_BEATS_POST") == 2 * posts
        assert await host.read("READ_BEATS_POST") == 2 * 3 * posts
        assert await host.field("STATE", "quiet")

    simulate(program_bytes(CONFIG, program), scenario)


_AT = address(Region.IO, 0x4000)
_WHERE = BASES[2] + 0x4000


_FAULTS = [
    (Opcode.FETCH, "address", DeviceError.READ_WGT),
    (Opcode.FRONT, "address", DeviceError.READ_FRONT),
    (Opcode.POST, "input", DeviceError.READ_POST),
    (Opcode.POST, "output", DeviceError.WRITE_POST),
    (Opcode.ATTEND, "keys_address", DeviceError.READ_KEYS),
    (Opcode.ATTEND, "values_address", DeviceError.READ_VALUES),
    (Opcode.ATTEND, "output", DeviceError.WRITE_VALUES),
    (Opcode.END, "", DeviceError.READ_PROG),
]


def test_memory_errors_name_port_and_address() -> None:
    memory = AxiMemory(latency=5)

    async def scenario(host: Host) -> None:
        await host.load()
        await host.write("IER", 2)
        await host.write("GIE", 1)
        for op, operand, code in _FAULTS:
            where = _WHERE if operand else PROGRAM
            program = _paired([_small(op, **{operand: _AT}), END]) if operand else [END]
            memory.write(PROGRAM, program_bytes(CONFIG, program))
            memory.bad = frozenset({where})
            await host.run()
            await host.tick(60)
            assert await host.read("ERROR") == code
            found = await host.read("ERROR_ADDRESS_LO") | await host.read("ERROR_ADDRESS_HI") << 32
            assert found == where
            assert host.ctx.get(host.core.interrupt) and not await host.field("CTRL", "ready")
            memory.bad = frozenset()
            await host.write("SOFT_RESET", 1)
            await host.tick(60)
            assert not await host.read("ERROR") and await host.read("CTRL") == 0b1100
            await host.run()
            assert not await host.read("ERROR") and await host.read("PROGRAMS") == 1

    simulate(b"", scenario, memory=memory)


def test_weight_ports_share_panels_and_tell_errors_apart() -> None:
    """Stripes through each; a refused burst of a share is told as that port's."""
    memory = AxiMemory(latency=6, jitter=5, stall=0.1)
    fetch = _small(Opcode.FETCH, address=_AT, beats=5, full=2, rest=3, panels=3, repeat=2)
    short = _small(Opcode.FETCH, address=_AT, beats=4, full=3, rest=0, panels=1, repeat=1)
    matrix = _small(Opcode.MATRIX, groups=3, blocks=16)
    three = _small(Opcode.MATRIX, groups=1, dual=0, blocks=12)
    program = program_bytes(FOUR_PORTS, [fetch, short, fetch, matrix, three, matrix, END])

    async def scenario(host: Host) -> None:
        await host.load()
        await host.run()
        assert not await host.read("ERROR")
        assert await host.read("INSTRUCTIONS_FETCH") == 3
        for port, share, more in (("", 5, 4), ("1", 5, 4), ("2", 3, 4), ("3", 3, 0)):
            assert await host.read(f"READ_BEATS_WGT{port}") == 2 * 3 * 2 * share + more
        for beat, code in (
            (5, DeviceError.READ_WGT1), (10, DeviceError.READ_WGT2), (13, DeviceError.READ_WGT3),
            (16, DeviceError.READ_WGT),
        ):  # fmt: skip
            where = _WHERE + 64 * beat
            memory.bad = frozenset({where})
            await host.run()
            await host.tick(60)
            assert await host.read("ERROR") == code
            found = await host.read("ERROR_ADDRESS_LO") | await host.read("ERROR_ADDRESS_HI") << 32
            assert found == where
            memory.bad = frozenset()
            await host.write("SOFT_RESET", 1)
            await host.tick(80)
            assert await host.field("STATE", "quiet") and memory.outstanding == 0
        odd = _small(Opcode.FETCH, address=_AT, beats=11, full=4, rest=1)
        for bad, rule in (
            (odd, InstructionRule.BEATS), (_small(Opcode.MATRIX, blocks=5), InstructionRule.OUTPUTS)
        ):  # fmt: skip
            memory.write(PROGRAM, program_bytes(FOUR_PORTS, [bad, END]))
            await host.run()
            assert await host.read("ERROR") == DeviceError.BAD_INSTRUCTION
            assert await host.read("ERROR_INFO") == int(rule) << 24
            await host.write("SOFT_RESET", 1)
            await host.tick(80)

    simulate(program, scenario, memory=memory, config=FOUR_PORTS)


def test_bad_programs_are_reported() -> None:
    bad = _small(Opcode.ATTEND, keys=0)

    async def scenario(host: Host) -> None:
        await host.load()
        await host.run()
        assert await host.read("ERROR") == DeviceError.BAD_INSTRUCTION
        assert await host.read("ERROR_INFO") == 1 | int(InstructionRule.KEYS) << 24
        await host.write("CTRL", 1)  # ignored
        await host.tick(50)
        assert await host.read("READ_BEATS_PROG") == 4

    simulate(program_bytes(CONFIG, [_small(Opcode.FRONT), bad, END]), scenario)


def test_watchdog_tells_who_waits() -> None:
    stuck = Instruction(Opcode.FRONT, _small(Opcode.FRONT).operands, (0, 0, 0, 0, 1))
    program = _paired([_small(Opcode.POST), stuck, _small(Opcode.FETCH), END])

    async def scenario(host: Host) -> None:
        await host.load()
        await host.write("WATCHDOG", 300)
        await host.run()
        assert await host.read("ERROR") == DeviceError.WATCHDOG
        info = await host.read("ERROR_INFO")
        state = BY_NAME["STATE"]
        waits = {u.name: state.field_value(info, f"waits_{u.name.lower()}") for u in UNITS}
        left = {u.name: state.field_value(info, f"incomplete_{u.name.lower()}") for u in UNITS}
        assert waits == left == {u.name: int(u.name == "FRONT") for u in UNITS}
        assert state.field_value(info, "end")
        await host.write("SOFT_RESET", 1)
        await host.tick(60)
        assert not await host.field("STATE", "incomplete_front")

    simulate(program_bytes(CONFIG, program), scenario)


def test_soft_reset_waits_for_the_memory_and_force_does_not() -> None:
    memory = AxiMemory(latency=5)
    matrices = 10 * [_small(Opcode.MATRIX)]
    program = [_small(Opcode.FETCH, panels=20), _small(Opcode.FRONT), *matrices, END]

    async def scenario(host: Host) -> None:
        await host.load()
        await host.write("CTRL", 1)
        await host.tick(120)
        memory.freeze = True
        await host.tick(30)
        await host.write("SOFT_RESET", 1)
        await host.tick(100)
        assert await host.field("STATE", "resetting") and not await host.field("STATE", "quiet")
        assert await host.field("CTRL", "idle") == 0
        memory.freeze = False
        await host.tick(150)
        assert memory.outstanding == 0
        assert not await host.field("STATE", "resetting") and await host.read("CTRL") == 0b1100
        assert await host.read("BASE3_LO") == BASES[3] & 0xFFFFFFFF
        await host.run()
        assert not await host.read("ERROR")
        # A memory that is dead for good.
        await host.write("CTRL", 1)
        await host.tick(100)
        memory.freeze = True
        await host.write("SOFT_RESET", 3)
        await host.tick(30)
        assert await host.field("STATE", "settling") and not await host.field("CTRL", "ready")
        await host.ready()
        assert await host.read("CTRL") == 0b1100 and await host.read("CYCLES_LO") == 0

    simulate(program_bytes(CONFIG, program), scenario, memory=memory)
