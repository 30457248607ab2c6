# SPDX-License-Identifier: Apache-2.0
"""An error of the device: program, step or block, layer and instruction, in one line."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lutvar.contract.decoder_memory import Place
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    UNITS,
    Opcode,
    PostOp,
    Region,
    Unit,
    split_address,
)
from lutvar.contract.register_map import DeviceError as Code
from lutvar.host.compile.decoder.compiler import CompiledStage, DecoderCompiler
from lutvar.host.device_errors import ProgramTimeout
from lutvar.host.device_status import AcceleratorError, DeviceCounters, DeviceSnapshot
from lutvar.host.errors import BusError
from lutvar.host.session import Session
from lutvar.host.stopped import bases, stopped_at
from lutvar.sim.golden_device import GoldenDevice
from support.host.decoder_cases import accelerator, latents, packed, quantized
from support.sim import device_rig as pass_rig

CONFIG = accelerator()
BASES = {region: 0x500_0000_0000 + (int(region) << 32) for region in Region}


@cache
def first() -> CompiledStage:
    """Up to the first convolution with sums: two convolutions and a copy."""
    coded = packed(CONFIG, quantized(CONFIG, "straight")).decoder
    assert coded is not None
    compiler = DecoderCompiler(coded, 1 << 16)
    return compiler.compile(compiler.stages[0])


def indices(opcode: Opcode) -> list[int]:
    items = first().program.instructions
    return [i for i, item in enumerate(items) if item.opcode == opcode]


def at(code: int, info: int = 0, address: int = 0, **done: int) -> int | None:
    """`stopped_at` with so many instructions of each unit complete."""
    counts = tuple(done.get(unit.name.lower(), 0) for unit in UNITS)
    snapshot = DeviceSnapshot(0, 0, 0, int(code), info, address, counts)
    return stopped_at(first().program.instructions, CONFIG, snapshot, BASES)


def address(index: int, name: str) -> int:
    region, offset = split_address(first().program.instructions[index].operands[name])
    return BASES[region] + offset


def last_line(index: int) -> int:
    """The last 64 bytes that a FRONT instruction reads."""
    o = first().program.instructions[index].operands
    return address(index, "address") + (o["rows"] - 1) * o["stride"] + o["groups"] * 256 - 64


def test_what_the_registers_name() -> None:
    assert at(Code.BAD_INSTRUCTION, 7 | 3 << 24) == 7
    assert at(Code.BAD_INSTRUCTION, 0xFF_FFFF) is None
    matrix = indices(Opcode.MATRIX)[2]
    assert at(Code.WEIGHTS_MISSING, matrix) == at(Code.WEIGHTS_SURPLUS, matrix) == matrix
    for silent in (Code.BAD_HEADER, Code.READ_PROG, Code.OUTSIDE_PROG, 99):
        assert at(silent) is None


def test_a_transfer_belongs_to_the_instruction_that_reaches_it() -> None:
    """FRONT and FETCH read ahead: the second one's read fails while the first is not complete."""
    front, fetch, post = (indices(op) for op in (Opcode.FRONT, Opcode.FETCH, Opcode.POST))
    for code in (Code.READ_FRONT, Code.OUTSIDE_FRONT):
        assert at(code, 0, last_line(front[0])) == front[0]
        assert at(code, 0, last_line(front[1])) == front[1]
        # What no instruction under way reaches is the oldest one's.
        assert at(code, 0, 0x123, front=1) == front[1]
    for code in (Code.READ_WGT, Code.READ_WGT3, Code.OUTSIDE_WGT1):
        assert at(code, 0, address(fetch[2], "address") + 64, fetch=1) == fetch[2]
    for code in (Code.READ_POST, Code.WRITE_POST, Code.OUTSIDE_POST):
        assert at(code, 1, address(post[1], "output"), post=1) == post[1]
    # The response that refuses a write ends its instruction.
    assert at(Code.WRITE_POST, 0, address(post[1], "output"), post=2) == post[1]
    assert at(Code.WRITE_POST, 0, address(post[2], "output"), post=2) == post[2]
    assert at(Code.READ_KEYS) is None  # the decoder has no ATTEND
    norm = next(i for i in post
                if first().program.instructions[i].operands["op"] == PostOp.NORM)  # fmt: skip
    assert at(Code.READ_POST, 0, address(norm, "input"), post=post.index(norm)) == norm


def test_a_watchdog_and_a_deadline_name_the_oldest() -> None:
    items = first().program.instructions
    totals = {unit.name.lower(): len(indices(Opcode(unit + 1))) for unit in UNITS}
    for code in (Code.WATCHDOG, Code.NONE):
        assert at(code) == 0
        late = totals | {"matrix": 1}
        assert at(code, **late) == at(code, **late | {"fetch": 0}) == indices(Opcode.MATRIX)[1]
        assert at(code, **totals | {"fetch": 0}) == indices(Opcode.FETCH)[0]
        assert at(code, **totals) is None
    assert items[-1].opcode == Opcode.END and totals[Unit.MATRIX.name.lower()] > 2


def test_the_error_says_it() -> None:
    """A region that ends too early, and a program for which there is no time."""
    decoder = quantized(CONFIG, "straight")
    image = packed(CONFIG, decoder)
    with Session(GoldenDevice(CONFIG), image) as session:
        device, plan = session.device, session.decoder.plan
        latent = latents(decoder, 1)
        right = session.decoder(latent)
        start, _ = plan.places[Place("x")]
        inside = bases(device.register)[Region.WORK] - device.transport.base
        device._limit(Region.WORK, inside + start + 1024)
        with pytest.raises(AcceleratorError) as caught:
            session.decoder(latent)
        text = str(caught.value)
        assert caught.value.code == Code.OUTSIDE_POST and "\n" not in text
        index, name = int(text.split("instruction ")[1].split()[0]), text.split("(")[1]
        stage, _ = session.decoder.programs[0]
        assert stage.program.notes[index].what == "decoder.conv_in" == name.split(")")[0]
        assert text.startswith(
            "decoder, program 1 of 20, up to decoder.conv_in, at step 3 of 44 (decoder.conv_in), "
            f"instruction {index} (POST): device error 35 (OUTSIDE_POST): a write of m_axi_post at"
        )
        device.soft_reset()
        device._limit(Region.WORK, inside + plan.work_size)
        run = device.run

        def soon(program: bytes, limit: int, what: str = "") -> DeviceCounters:
            return run(program, min(limit, 10), what)

        device.run = soon  # type: ignore[method-assign]
        with pytest.raises(ProgramTimeout) as late:
            session.decoder(latent)
        assert str(late.value).startswith(
            "decoder, program 1 of 20, up to decoder.conv_in, at step 1 of 44 (post_quant_conv), "
            "instruction 0 ("
        )
        device.run = run  # type: ignore[method-assign]
        device.soft_reset()
        assert (session.decoder(latent) == right).all()


def test_an_error_of_a_pass_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block's GELU results have no room, there is no time, no answer; passes of a file."""
    model, rng = pass_rig.packed(pass_rig.random_transformer()), np.random.default_rng(1)
    steps = [pass_rig.image_step(rng, 0, 0, 0, 1)]
    with Session(GoldenDevice(pass_rig.CONFIG, size=8 << 20), model) as session:
        device, transformer = session.device, session.transformer
        right = transformer.run(steps)
        compiled = transformer.compile(steps)
        notes, items = compiled.program.notes, compiled.program.instructions
        last = max(note.block for note in notes if note.what == "fc1")
        index = next(i for i, note in enumerate(notes)
                     if (note.what, note.block) == ("fc1", last)
                     and items[i].opcode == Opcode.POST)  # fmt: skip
        run = device.run

        def without_room(program: bytes, limit: int, what: str = "") -> DeviceCounters:
            """The output of one instruction goes to where no region is."""
            words = np.frombuffer(program, np.uint8).copy()
            field = next(f for f in PAYLOAD_FIELDS[Opcode.POST] if f.name == "output")
            whole = int.from_bytes(words[64 * (index + 1) : 64 * (index + 2)].tobytes(), "little")
            whole |= (1 << 37) << field.low
            words[64 * (index + 1) : 64 * (index + 2)] = np.frombuffer(
                whole.to_bytes(64, "little"), np.uint8
            )
            return run(words.tobytes(), limit, what)

        monkeypatch.setattr(device, "run", without_room)
        place = f"at block{last}.fc1, instruction {index} (POST)"
        with pytest.raises(AcceleratorError) as caught:
            transformer.run(steps)
        assert caught.value.where == f"pass of 1 image steps, {place}"
        assert str(caught.value).startswith(f"{caught.value.where}: device error 35 (OUTSIDE_POST)")
        device.soft_reset()
        monkeypatch.setattr(device, "run", lambda program, limit, what: run(program, 10, what))
        with pytest.raises(ProgramTimeout, match=r"steps, at block0.qkv, instruction \d+ \("):
            transformer.run(steps)
        monkeypatch.setattr(device, "run", run)
        device.soft_reset()

        def silent(_program: bytes, _limit: int, what: str) -> DeviceCounters:
            monkeypatch.setattr(device, "register", lambda _name: refused())
            raise ProgramTimeout(what, 10, DeviceSnapshot(0, 0, 0, 0, 0, 0, (0,) * len(UNITS)))

        def refused() -> int:
            raise BusError("read", 0, None)

        with monkeypatch.context() as patch:
            patch.setattr(device, "run", silent)
            with pytest.raises(ProgramTimeout, match="pass of 1 image steps not finished after 10"):
                transformer.run(steps)
            monkeypatch.undo()
        assert all((a == b).all() for a, b in zip(transformer.run(steps), right, strict=True))
