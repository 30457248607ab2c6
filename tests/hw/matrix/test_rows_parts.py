# SPDX-License-Identifier: Apache-2.0
"""The matrix unit's sequencing by itself, in Amaranth's simulator."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.sim import Simulator

from lutvar.contract.accelerator import ROW_GROUP
from lutvar.contract.memory import pack_panel, panel_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.matrix.chain import load_layout, operand_words, word_bits
from lutvar.hw.matrix.issue import IssueGate
from lutvar.hw.matrix.loader import OperandLoader
from lutvar.hw.matrix.operands import GroupOperands, load_interval, operand_latency
from lutvar.hw.matrix.unpack import WeightUnpack
from support.hw.matrix import BEAT, small, with_last


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("fill", [1, 5])
@pytest.mark.parametrize("interval", [1, 7])
@pytest.mark.parametrize("busy", [0.3, 1.0])
def test_gate_keeps_vectors_and_operands_apart(fill, interval, busy):
    dut, rng = IssueGate(fill, interval), random.Random(fill + interval)
    starts, goes, ends = [], [], []

    async def testbench(ctx):
        valid = loaded = end = 0
        for cycle in range(400):
            if not valid and rng.random() < busy:
                valid, end = 1, rng.random() < 0.3
            loaded = loaded or rng.random() < busy
            ctx.set(dut.valid, valid)
            ctx.set(dut.end, valid and end)
            ctx.set(dut.loaded, loaded)
            if ctx.get(dut.go):
                goes.append(cycle)
                if end:
                    ends.append(cycle)
                valid = 0
            if ctx.get(dut.start):
                assert loaded
                loaded = 0
                starts.append(cycle)
            await ctx.tick()

    simulate(dut, testbench)
    assert len(starts) > 10
    for k, start in enumerate(starts):
        before = ends[k - 1] if k else -1
        after = [cycle for cycle in goes if cycle > before]
        assert start >= before  # the pass before is over, or ends now
        assert all(cycle >= start + fill for cycle in after)
    assert all(b - a >= interval for a, b in pairwise(goes))
    if busy == 1.0 and fill == interval == 1:
        assert goes == list(range(goes[0], goes[0] + len(goes)))  # no cycle lost


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_unpack_finds_every_vector(quant, stall):
    config = small(quant)
    bits, rng = config.quant_config.code_bits, np.random.default_rng(3)
    pause = random.Random(4)
    works, beats, expected = [(2, 4, 1), (1, 8, 0), (2, 4, 0), (1, 4, 0)], bytearray(), []
    for groups, blocks, dual in works:
        outputs = 32 * blocks
        for g in range(groups):
            codes = rng.integers(0, 1 << bits, (outputs, GROUP)).astype(np.uint8)
            scales = rng.integers(0, 1 << 15, outputs).astype(np.uint16)
            bias = rng.normal(size=outputs).astype(np.float32)
            panel = pack_panel(codes, scales, None if g else bias, bits)
            for _ in range(1 + dual):
                beats += with_last(panel)
                for n in range(outputs):
                    word = sum(int(c) << bits * i for i, c in enumerate(codes[n]))
                    sums_from = None if g else int(bias.view(np.uint32)[n])
                    expected.append((word, int(scales[n]), sums_from))
    dut = WeightUnpack(config)
    queue = [int.from_bytes(beats[i : i + BEAT], "little") for i in range(0, len(beats), BEAT)]
    works, total, got, cycles, wrong = list(works), len(queue), [], [], []

    async def testbench(ctx):
        offered = shown = False
        for cycle in range(8 * total + 50):
            shown = shown or (bool(queue) and pause.random() >= stall)
            offered = offered or (bool(works) and pause.random() >= stall)
            ctx.set(dut.beats.valid, shown)
            beat = queue[0] if shown else rng.integers(1 << 62).item()
            ctx.set(Value.cast(dut.beats.payload), beat)
            ctx.set(dut.work.valid, offered)
            if offered:
                for name, value in zip(("groups", "blocks", "twice"), works[0], strict=True):
                    ctx.set(getattr(dut.work.payload, name), value)
            ready = pause.random() >= stall
            ctx.set(dut.vectors.ready, ready)
            if ready and ctx.get(dut.vectors.valid):
                v, number = ctx.get(dut.vectors.payload), len(got)
                bias = None if expected[number][2] is None else v.bias
                got.append((v.codes, v.ws, bias))
                cycles.append(cycle)
                if len(got) == len(expected):
                    break
            took, began = ctx.get(dut.beats.ready), ctx.get(dut.work.ready)
            wrong.append(ctx.get(dut.surplus) or ctx.get(dut.missing))
            await ctx.tick()
            if shown and took:
                queue.pop(0)
                shown = False
            if offered and began:
                works.pop(0)
                offered = False

    simulate(dut, testbench)
    assert got == expected
    assert not queue
    if not stall:  # after the first work, to the last, a beat in each cycle
        assert cycles[-1] + 1 == 1 + total + 1
    assert not wrong[-1]


@pytest.mark.parametrize("form", ["table", "da"])
@pytest.mark.parametrize(
    ("settle", "hold", "interval"), [(1, 1, 1), (4, 1, 1), (3, 40, 1), (1, 9, 6)]
)
def test_loader_keeps_the_declared_cycles(form, settle, hold, interval):
    config = small(dot=form)
    dot = SimpleNamespace(settle=settle, hold=hold, interval=interval)
    dut = OperandLoader(config, cast(Any, dot))
    rng, works = random.Random(1), [(8, 3, 1), (0, 2, 0)]
    words, starts, ready_at = [], [], []

    async def testbench(ctx):
        for cycle in range(2500):
            ctx.set(dut.work.valid, bool(works))
            if works:
                for name, value in zip(("address", "groups", "dual"), works[0], strict=True):
                    ctx.set(getattr(dut.work.payload, name), value)
            ready = ctx.get(dut.ready)
            if ready and len(ready_at) == len(starts):
                ready_at.append(cycle)
            start = ready and rng.random() < 0.5
            ctx.set(dut.start, start)
            if start:
                starts.append(cycle)
            if ctx.get(dut.load_valid):
                load = ctx.get(dut.load)
                words.append((cycle, load.address, load.word, load.dual, load.negative))
            taken = works and ctx.get(dut.work.ready)
            await ctx.tick()
            if taken:
                works.pop(0)

    simulate(dut, testbench)
    passes = [(8 + 8 * g, 1, n) for g in range(3) for n in (1, 0)]
    passes += [(8 * g, 0, 0) for g in range(2)]
    assert [w[1:] for w in words] == [(a + k, k, d, n) for a, d, n in passes for k in range(8)]
    least = max(interval, load_interval(config))
    assert all(b - a >= least for (a, *_), (b, *_) in pairwise(words))
    memory = operand_latency(config)  # cycles from a word's address to the dot product
    for k, start in enumerate(starts):
        assert start >= words[8 * k + 7][0] + memory + settle
        if k + 1 < len(starts):
            assert words[8 * k + 8][0] + memory >= start + hold
            assert ready_at[k + 1] - start == dut.cycles


@pytest.mark.parametrize("pause", [0.0, 0.7])
@pytest.mark.parametrize("form", ["table", "da"])
def test_operands_of_all_rows_come_together(form, pause):
    config, rng = small(dot=form), random.Random(pause)
    dut, bits, count = GroupOperands(config), word_bits(config), operand_words(config)
    held = [[rng.getrandbits(bits) for _ in range(ROW_GROUP)] for _ in range(count)]
    writes = [(row, address) for row in range(ROW_GROUP) for address in range(count)]
    rng.shuffle(writes)
    loads, due, seen = [rng.randrange(count) for _ in range(30)], {}, 0

    async def testbench(ctx):
        nonlocal seen
        for row, address in writes:
            ctx.set(dut.write_valid, 1)
            ctx.set(dut.write_row, row)
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, held[address][row])
            await ctx.tick()
        ctx.set(dut.write_valid, 0)
        cycle, may = 0, 0
        while loads or due:
            now = bool(loads) and cycle >= may and rng.random() >= pause
            ctx.set(dut.load_valid, now)
            address = loads.pop(0) if now else rng.randrange(count)
            load: dict[Any, int] = {
                "address": address,
                "word": address % 8,
                "dual": 1,
                "negative": address & 1,
            }
            ctx.set(dut.load, load_layout(config).const(load))
            if now:
                due[cycle + operand_latency(config)] = load
                may = cycle + load_interval(config)
            expected = due.pop(cycle, None)
            assert ctx.get(dut.word_valid) == (expected is not None)
            if expected:
                words = held[expected["address"]]
                size, mask = bits - 8, (1 << bits - 8) - 1
                codes = sum((word & mask) << size * row for row, word in enumerate(words))
                assert ctx.get(dut.codes) == codes
                assert all(ctx.get(dut.word[name]) == value for name, value in expected.items())
                seen += 1
            await ctx.tick()
            cycle += 1

    simulate(dut, testbench)
    assert seen == 30


def _marked_beats(config, works, rng):
    """Beats for (groups, blocks, dual), and how many end each of the works."""
    bits, queue, ends = config.quant_config.code_bits, [], []
    for groups, blocks, dual in works:
        for group in range(groups):
            for _ in range(1 + dual):
                beats = panel_beats(32 * blocks, bits, first=not group)
                queue += [rng.getrandbits(512) for _ in range(beats - 1)]
                queue.append(rng.getrandbits(512) | 1 << 512)
        ends.append(len(queue))
    return queue, ends


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("slow", [0.0, 0.5])
def test_unpack_stops_at_a_wrong_mark(quant, slow):
    """Any beat whose mark is wrong is told, with its work, and nothing is taken after it.

    Works come late or early, so that beats of the next one wait at the door.
    """
    config, rng = small(quant), random.Random(quant)
    shapes = [(1, 1, 0), (2, 1, 0), (1, 1, 1)]
    dut = WeightUnpack(config)
    clean, ends = _marked_beats(config, shapes, rng)
    total = len(clean)
    # The ends of works and of readings, what is before and after them, and some others.
    marks = [i for i, beat in enumerate(clean) if beat >> 512]
    places = {p + d for p in marks for d in (-2, -1, 0, 1, 2)} & set(range(total))
    places |= set(rng.sample(range(total), 12))
    results = []

    async def run(ctx, place):
        queue = list(clean)
        queue[place] ^= 1 << 512
        works, taken, beats = list(enumerate(shapes)), 0, 0
        ctx.set(dut.vectors.ready, 1)
        quiet = 0
        while quiet < 80:
            offered = bool(works) and rng.random() >= slow * 0.95
            ctx.set(dut.work.valid, offered)
            if works:
                number, (groups, blocks, dual) = works[0]
                values = {"groups": groups, "blocks": blocks, "twice": dual, "index": 7 + number}
                for name, value in values.items():
                    ctx.set(getattr(dut.work.payload, name), value)
            shown = bool(queue) and rng.random() >= slow
            ctx.set(dut.beats.valid, shown)
            ctx.set(Value.cast(dut.beats.payload), queue[0] if shown else 0)
            took = shown and ctx.get(dut.beats.ready)
            began = offered and ctx.get(dut.work.ready)
            await ctx.tick()
            quiet = 0 if took else quiet + 1
            if took:
                queue.pop(0)
                beats += 1
            if began:
                works.pop(0)
                taken += 1
            # No beat of a work that was not taken.
            assert beats <= (ends[taken - 1] if taken else 0)
        found = ctx.get(dut.surplus), ctx.get(dut.missing), ctx.get(dut.index)
        results.append((place, found, beats))

    async def testbench(ctx):
        for place in sorted(places):
            await run(ctx, place)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)

    reset = Signal()
    simulator = Simulator(ResetInserter(reset)(dut))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert len(results) == len(places)
    for place, found, beats in results:
        owner = 7 + next(i for i, end in enumerate(ends) if place < end)
        surplus = bool(clean[place] >> 512)
        assert found == (surplus, not surplus, owner), (place, found)
        assert beats == place + 1, (place, beats)
