# SPDX-License-Identifier: Apache-2.0
"""Finding the first instruction of the decoder that computed something else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.decoder import Norm
from lutvar.contract.decoder_memory import Place
from lutvar.contract.isa import Instruction, Opcode, PostOp, Region, split_address
from lutvar.host.device import Device
from lutvar.host.device_decoder import DeviceDecoder
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder
from lutvar.sim.device import VerilatedDevice
from lutvar.sim.interpret import Machine
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.comparing_decoder import ComparingDecoder
from lutvar.sim.run.locate import Located
from lutvar.sim.run.locate_decoder import locate_decoder
from lutvar.sim.run.locate_tensors import part_of_decoder
from lutvar.sim.transport import SimulatedMemory
from support.host.decoder_cases import latents, packed, quantized
from support.sim.device_rig import BUILD, CONFIG, FAST
from support.sim.software_device import SoftwareDevice

Change = Callable[[Instruction, Machine], None]


@cache
def coded() -> QuantizedDecoder:
    """Two levels, with attention, a doubled map and a shortcut."""
    return quantized(CONFIG, "two-rotated")


class Case:
    """A decoder on a device in software, in which one instruction does something else."""

    def __init__(self) -> None:
        self.device = SoftwareDevice()
        self.transformer = DeviceTransformer(self.device, packed(CONFIG, coded()), 1)  # type: ignore[arg-type]
        assert self.transformer.decoder is not None
        self.decoder: DeviceDecoder = self.transformer.decoder
        self.latent = latents(coded(), 1)[0]

    def first(self, opcode: Opcode, what: str, nth: int = 0) -> tuple[int, int]:
        """Program, from 1, and index of the n-th such instruction of the step `what`."""
        for number, (compiled, _) in enumerate(self.decoder.programs, 1):
            program = compiled.program
            found = [
                i for i, note in enumerate(program.notes)
                if note.what == what and program.instructions[i].opcode == opcode
            ]  # fmt: skip
            if found:
                return number, found[nth]
        raise AssertionError(what)

    def item(self, place: tuple[int, int]) -> Instruction:
        number, index = place
        return self.decoder.programs[number - 1][0].program.instructions[index]

    def breaks(self, place: tuple[int, int], change: Change) -> None:
        """Let every instruction that has these operands do something else; no earlier one has."""
        wanted = self.item(place)
        for number, (compiled, _) in enumerate(self.decoder.programs[: place[0]], 1):
            for i, item in enumerate(compiled.program.instructions):
                if (number, i) < place:
                    assert (item.opcode, item.operands) != (wanted.opcode, wanted.operands)

        def fault(item: Instruction, machine: Machine) -> None:
            if (item.opcode, item.operands) == (wanted.opcode, wanted.operands):
                change(item, machine)

        self.device.fault = fault

    def locate(self) -> Located:
        return locate_decoder(self.decoder, self.latent)


def flip(row: int, byte: int, bit: int = 0x40) -> Change:
    """A bit of what the instruction has written."""

    def change(item: Instruction, machine: Machine) -> None:
        region, at = split_address(item.operands["output"])
        machine.memory[region][at + row * item.operands["output_stride"] + byte] ^= bit

    return change


def test_nothing_differs() -> None:
    case = Case()
    case.decoder.raw_image(case.latent)
    before = {r: m.copy() for r, m in case.device.machine.memory.items()}
    found = case.locate()
    assert found.divergence is None and not found.model and not found.memory
    assert found.runs == len(case.decoder.programs)
    assert str(found).startswith("the image was repeated and nothing differed")
    for region, contents in before.items():
        np.testing.assert_array_equal(case.device.machine.memory[region], contents)


def test_a_result_of_a_convolution() -> None:
    """Program, step, convolution, and line, pixel and channel of the first wrong value."""
    case = Case()
    place = case.first(Opcode.POST, "decoder.conv_in")
    note = case.decoder.programs[place[0] - 1][0].program.notes[place[1]]
    case.breaks(place, flip(1, 4 * 70 + 3))
    where = case.locate().divergence
    assert where is not None and (where.index, where.unit) == (place[1], "POST")
    steps = case.decoder.plan.shape.steps
    number = next(i for i, s in enumerate(steps, 1) if getattr(s, "name", "") == "decoder.conv_in")
    assert where.what == (
        f"decoder, program {place[0]} of {len(case.decoder.programs)}, step {number} of "
        f"{len(steps)}, decoder.conv_in, tile {note.tile}"
    )
    # 64 channels: a row of the array is two pixels, the second row of a line of four is its end.
    assert (where.tensor, where.element) == ("decoder.conv_in -> x", (0, 3, 6))
    assert where.expected ^ where.actual == 0x40 << 24 and where.wrong == 1
    kinds = [text.split()[0] for text in where.fed_by]
    assert kinds.count("MATRIX") == 6 and "FRONT" in kinds and "FETCH" in kinds
    assert "decoder.conv_in -> x[0, 3, 6]: expected 0x" in str(where)
    assert "\n" not in str(where)


def test_norms_sums_and_what_lies_outside() -> None:
    case = Case()
    place = case.first(Opcode.POST, "copy of h")
    assert case.item(place).operands["op"] == PostOp.NORM
    case.breaks(place, flip(0, 2 * 5))
    where = case.locate().divergence
    assert where is not None and (where.index, where.fed_by) == (place[1], ())
    assert (where.tensor, where.element) == ("copy of h -> a", (0, 0, 5))

    case = Case()
    place = case.first(Opcode.POST, "sums of x")
    case.breaks(place, flip(0, 16 * 9 + 8))
    where = case.locate().divergence
    assert where is not None and where.index == place[1]
    assert (where.tensor, where.element) == ("sums of x", (9, 1))
    posts = (
        case.first(Opcode.POST, "decoder.conv_in"),
        case.first(Opcode.POST, "decoder.conv_in", -1),
    )
    assert where.fed_by == (f"POST {posts[0][1]} to {posts[1][1]}",)

    def stray(_item: Instruction, machine: Machine) -> None:
        machine.memory[Region.WORK][3] ^= 1  # of the transformer

    case = Case()
    place = case.first(Opcode.POST, "decoder.conv_in")
    case.breaks(place, stray)
    where = case.locate().divergence
    assert where is not None and where.index >= place[1]
    assert "outside" in where.tensor and where.element == (3,)


@pytest.mark.parametrize("opcode", [Opcode.FRONT, Opcode.MATRIX])
def test_a_wrong_code_or_sum(opcode: Opcode) -> None:
    """It shows in what POST makes of it, which names what has fed it."""
    case = Case()
    # The first FRONT instruction reads zeros, the line above the map.
    place = case.first(opcode, "decoder.conv_in", 1 if opcode == Opcode.FRONT else 0)

    def change(item: Instruction, machine: Machine) -> None:
        first, rows = (item.operands.get(name, 0) for name in ("row_first", "rows"))
        if opcode == Opcode.FRONT:
            machine._codes[item.operands["bank"], first : first + rows, 0, :16] ^= 4
        else:
            machine._accumulators[item.operands["acc_bank"], 1, 3] += np.float32(1e3)

    case.breaks(place, change)
    where = case.locate().divergence
    assert where is not None and (where.unit, where.tensor) == ("POST", "decoder.conv_in -> x")
    assert f"{opcode.name} {place[1]}" in where.fed_by
    assert where.what.startswith(f"decoder, program {place[0]} of ")


def test_a_program_that_stops() -> None:
    case = Case()
    sizes = [len(compiled.program.instructions) for compiled, _ in case.decoder.programs]
    case.device.fails = max(sizes) - 1
    number = 1 + sizes.index(max(sizes))
    where = case.locate().divergence
    assert where is not None and where.error == "the device stopped"
    assert f"program {number} of {len(sizes)}" in where.what


def test_a_border_that_is_not_zero() -> None:
    """Programs rely on it and do not write it themselves."""
    case = Case()
    plan = case.decoder.plan
    of = plan.activated(Place("a", 8, 32))
    case.device.machine.memory[Region.WORK][of.at(3, 8) + 2 * 7] = 1
    found = case.locate()
    assert found.divergence is None
    assert "the border of map a (8 x 8, 32 channels) is not zero" in found.memory
    assert "first at line 3, pixel 8, channel 7" in found.memory and found.memory in str(found)


def test_the_model_in_memory() -> None:
    case = Case()
    layout = case.decoder.packed.decoder.layout  # type: ignore[union-attr]
    conv = layout.convolutions["decoder.conv_in"]
    at = conv.parts[1].tiles[0].offset
    case.device.machine.memory[Region.MODEL][at] ^= 1
    found = case.locate()
    assert "decoder.conv_in, part 1, group 0, outputs 0 to 31" in found.model
    assert found.divergence is not None and "decoder.conv_in" in found.divergence.what


def test_parts_of_the_decoder() -> None:
    layout = Case().decoder.packed.decoder.layout  # type: ignore[union-attr]
    norm = layout.norms["decoder.norm_out"]
    conv = layout.convolutions["decoder.mid.block_1.conv1"]
    for offset, text in (
        (norm.weight + 4 * 7 + 3, "decoder.norm_out, weight of channel 7"),
        (norm.bias, "decoder.norm_out, bias of channel 0"),
        (conv.parts[2].tiles[0].offset, "conv1, part 2, group 0, outputs 0 to 31"),
        (layout.end - 1, "unused"),
    ):
        assert text in part_of_decoder(layout, offset), offset
    assert isinstance(Case().decoder.plan.shape.steps[-2], Norm)


@pytest.mark.verilator
def test_a_flipped_bit_of_a_weight_on_the_simulated_device(verilog: Path) -> None:
    """The comparison calls with the image's latent map, and the convolution is named."""
    decoder = coded()
    found: list[Located] = []
    BUILD.mkdir(parents=True, exist_ok=True)
    with VerilatedDevice.from_verilog(verilog, 1 << 24, build_dir=BUILD, timing=FAST) as simulation:
        device = Device(SimulatedMemory(simulation), CONFIG, watchdog=200_000)
        device.open()
        transformer = DeviceTransformer(device, packed(CONFIG, decoder), 1)
        made = transformer.decoder
        assert made is not None
        both = ComparingDecoder(
            GoldenDecoder(decoder), made, Comparison(),
            lambda latent: found.append(locate_decoder(made, latent)),
        )  # fmt: skip
        layer = made.packed.decoder.layout.convolutions["decoder.conv_in"].parts[1]  # type: ignore[union-attr]
        at = layer.tiles[0].offset + 5 * 2 + 1  # scale of output 5
        byte = device.read(Region.MODEL, at, 1)
        device.write(Region.MODEL, at, byte ^ np.uint8(4))
        both.image(latents(decoder, 1)[0])
        assert len(found) == 1 and found[0].divergence is not None
        assert "decoder.conv_in, part 1, group 0, outputs 0 to 31" in found[0].model
        where = found[0].divergence
        assert where.tensor == "decoder.conv_in -> x" and where.element[2] == 5
        device.write(Region.MODEL, at, byte)
        again = ComparingDecoder(GoldenDecoder(decoder), made, Comparison(), found.append)  # type: ignore[arg-type]
        again.image(latents(decoder, 1)[0])
        assert again.comparison.total and not again.comparison.mismatches and len(found) == 1
        assert not simulation.violations
