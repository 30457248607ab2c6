# SPDX-License-Identifier: Apache-2.0
"""From a byte in memory to the element that an instruction has put there, or part of the model."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.accelerator import BEAT_BYTES, HEAD_DIM, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.column_sums import COLUMN_BYTES
from lutvar.contract.decoder import Conv
from lutvar.contract.decoder_memory import target_place
from lutvar.contract.isa import ALIGN, Instruction, Opcode, PostOp, Region, split_address
from lutvar.contract.memory import RECORD_BYTES, block_at
from lutvar.contract.quant_preset import GROUP
from lutvar.host.compile.decoder.layout import DecoderLayout
from lutvar.host.compile.decoder.plan import DecoderPlan
from lutvar.host.compile.footprint import footprint
from lutvar.host.compile.layer_plan import LayerPlan
from lutvar.host.compile.memory_plan import MemoryPlan
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.program import Note


@dataclass(frozen=True)
class Element:
    """An element of a tensor in memory.

    Attributes:
        tensor: in the names of `GoldenTransformer`'s trace.
        index: (row of the pass, column), or (row, head, byte) of a record.
        offset, size: its bytes in its region.
    """

    tensor: str
    index: tuple[int, ...]
    offset: int
    size: int


def element_of(
    item: Instruction, note: Note, plan: MemoryPlan, region: Region, offset: int
) -> Element | None:
    """The element at a byte of memory, if the instruction (POST or ATTEND) writes there."""
    if item.opcode == Opcode.POST and item.operands["op"] == PostOp.QKV:
        return _record(item, note, region, offset)
    o, block = item.operands, note.block
    base, size, columns = plan.x(0), 4, o.get("blocks", 0) * GROUP
    name = f"block{block}.x1" if note.what == "proj" else f"block{block + 1}.x"
    if item.opcode == Opcode.ATTEND:
        name, base, size = f"block{block}.attention", plan.o(0), 2
        columns = o["heads"] * HEAD_DIM
    elif note.what == "fc1":
        name, base, size = f"block{block}.gelu", plan.h(0), 2
    elif note.what == "head":
        name, base = "logits", plan.logits(0, 0)
    elif block + 1 == plan.shape.depth and note.what == "fc2":
        name = "x"
    place = _inside(o["output"], o["output_stride"], o["rows"], columns * size, region, offset)
    if place is None:
        return None
    row, byte = place
    first = (split_address(o["output"])[1] - split_address(base)[1]) % o["output_stride"] // size
    index = note.first + row, first + byte // size
    return Element(name, index, offset - byte % size, size)


def _record(item: Instruction, note: Note, region: Region, offset: int) -> Element | None:
    o, rows = item.operands, item.operands["rows"]
    queries = o["heads"] * HEAD_DIM // GROUP
    for block in range(o["block_first"], o["block_first"] + o["blocks"]):
        if block < queries:
            at = o["output"] + 2 * block * RECORD_BYTES
            place = _inside(at, o["output_stride"], rows, 2 * RECORD_BYTES, region, offset)
            if place:
                half, byte = divmod(place[1], RECORD_BYTES)
                index = note.first + place[0], 2 * block + half, byte
                return Element(f"block{note.block}.q", index, offset, 1)
            continue
        head = block - queries
        for name in ("keys", "values"):
            at = o[name] + head * o["head_stride"]
            place = _inside(at, RECORD_BYTES, rows, RECORD_BYTES, region, offset)
            if place:
                index = note.first + place[0], head, place[1]
                return Element(f"block{note.block}.{name[0]}", index, offset, 1)
    return None


def _inside(
    address: int, stride: int, rows: int, size: int, region: Region, offset: int
) -> tuple[int, int] | None:
    """(row, byte of the row) of an offset in rows of `size` bytes; None outside of them."""
    region_there, start = split_address(address)
    row, byte = divmod(offset - start, stride)
    return (row, byte) if region_there == region and 0 <= row < rows and byte < size else None


def part_of_model(layout: ModelLayout, offset: int) -> str:
    """What lies at an offset in region MODEL, for people; without the decoder."""
    for layer in layout.layers:
        part = _part_of_layer(layer, layout.config, offset)
        if part:
            return part
    if offset >= layout.class_base:
        index = (offset - layout.class_base) // layout.class_stride
        if index < len(layout.labels):
            return f"AdaLN vectors of class {layout.labels[index]}"
    elif offset >= layout.kappa_base:
        return f"kappa of block {(offset - layout.kappa_base) // layout.vector_bytes}"
    return "unused"


def part_of_decoder(layout: DecoderLayout, offset: int) -> str:
    """What of the decoder lies at an offset in region MODEL, for people."""
    for plan in layout.convolutions.values():
        for layer in plan.parts:
            part = _part_of_layer(layer, layout.config, offset)
            if part:
                return part
    for name, norm in layout.norms.items():
        for kind, first in (("weight", norm.weight), ("bias", norm.bias)):
            channel = (offset - first) // 4
            if 0 <= channel < norm.channels:
                return f"{name}, {kind} of channel {channel}"
    return "unused"


def _part_of_layer(layer: LayerPlan, config: AcceleratorConfig, offset: int) -> str:
    """Group and outputs of a layer whose weights lie at an offset; empty where others lie."""
    for tile in layer.tiles:
        inside = offset - tile.offset
        if not 0 <= inside < layer.panel_bytes(tile):
            continue
        panels = [
            (p, p.group == s.first)
            for number in range(layer.terms.weights)
            for s in layer.slices
            for p in layer.panels(tile, s, number)
        ]
        panel, biased = max(
            (place for place in panels if place[0].offset <= offset), key=lambda f: f[0].offset
        )
        beat = (offset - panel.offset) // BEAT_BYTES
        bits, ports = config.quant_config.code_bits, config.weight_ports
        output = tile.first + block_at(beat, tile.outputs, bits, biased, ports) * WEIGHT_BLOCK
        last = output + WEIGHT_BLOCK - 1
        return f"{layer.name}, group {panel.group}, outputs {output} to {last}"
    return ""


def decoder_element(
    item: Instruction, note: Note, plan: DecoderPlan, region: Region, offset: int
) -> Element | None:
    """The same for an instruction of the decoder: an element of a map, or a sum.

    Its index is (line, pixel, channel) of a map, (column of a row, 0 for S1 and 1 for S2) of sums.
    """
    step = plan.shape.steps[note.block]
    lines = [x for there, x in footprint(item, plan.config).writes if there == region]
    if item.opcode != Opcode.POST or not any(offset // ALIGN in x for x in lines):
        return None
    if item.operands["op"] == PostOp.SUMS:
        column, byte = divmod(offset - plan.sums, COLUMN_BYTES)
        return Element(note.what, (column, byte // 8), offset - byte % 8, 8)
    if isinstance(step, Conv):
        there = plan.raw(step.target, step.side * (2 if step.double else 1), step.outputs)
    else:
        there = plan.activated(target_place(step))
    line, rest = divmod(offset - there.offset, there.line)
    pixel, byte = divmod(rest, there.pixel)
    index = line - there.border, pixel - there.border, byte // there.value
    name = f"{note.what} -> {step.target}"
    return Element(name, index, offset - byte % there.value, there.value)
