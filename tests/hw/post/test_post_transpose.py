# SPDX-License-Identifier: Apache-2.0
"""The block buffer of POST: every row and part of blocks that are written while others are read."""

import random

from amaranth.hdl import Value
from amaranth.sim import Simulator

from lutvar.hw.post.transpose import PAIRS, PART, SLOTS, BlockBuffer


def test_transpose() -> None:
    rng = random.Random(1)
    buffer = BlockBuffer()
    blocks = [
        [[rng.getrandbits(32) for _ in range(128)] for _ in range(16)] for _ in range(SLOTS + 3)
    ]
    stored: list[int] = []
    expected: list[tuple[int, list[int]]] = []

    async def writer(ctx) -> None:
        for number, block in enumerate(blocks):
            while number >= len(done) + SLOTS:
                await ctx.tick()
            for pair in range(PAIRS):
                while rng.random() < 0.1:
                    ctx.set(buffer.write, 0)
                    await ctx.tick()
                value = sum(
                    block[row][2 * pair + c] << 32 * (row + 16 * c)
                    for row in range(16)
                    for c in range(2)
                )
                ctx.set(buffer.write, 1)
                ctx.set(buffer.write_slot, number % SLOTS)
                ctx.set(buffer.write_pair, pair)
                ctx.set(Value.cast(buffer.values), value)
                await ctx.tick()
            ctx.set(buffer.write, 0)
            ctx.set(Value.cast(buffer.values), rng.getrandbits(1024))

    async def watch(ctx) -> None:
        async for _, _, written in ctx.tick().sample(buffer.written):
            if written:
                stored.append(1)

    done: list[int] = []

    async def reader(ctx) -> None:
        cycle = 0
        for number, block in enumerate(blocks):
            while len(stored) <= number:
                await ctx.tick()
                cycle += 1
            order = [(row, part) for row in range(16) for part in range(128 // PART)]
            rng.shuffle(order)
            for row, part in order + order[:8]:
                if expected and expected[0][0] == cycle:
                    want = expected.pop(0)[1]
                    got = ctx.get(buffer.part)
                    assert [got >> 32 * i & 0xFFFFFFFF for i in range(PART)] == want
                ctx.set(buffer.read_slot, number % SLOTS)
                ctx.set(buffer.read_row, row)
                ctx.set(buffer.read_part, part)
                want = block[row][PART * part :][:PART]
                expected.append((cycle + BlockBuffer.READ_LATENCY, want))
                await ctx.tick()
                cycle += 1
            done.append(number)
        assert len(stored) == len(blocks)

    simulator = Simulator(buffer)
    simulator.add_clock(1e-6)
    simulator.add_testbench(writer)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(reader)
    simulator.run()
