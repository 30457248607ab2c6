# SPDX-License-Identifier: Apache-2.0
"""Transfers for tests of burst reader and writer."""

import random
from typing import Any

from support.hw.axi_memory import BEAT_BYTES, AxiMemory

LIMIT = 6000  #: cycles after which a test gives up


def random_transfers(rng: random.Random, count: int, largest: int) -> list[tuple[int, int]]:
    """Random (address, beats); windows of 4 KiB are crossed, some transfers are single beats."""
    found = []
    for number in range(count):
        beats = rng.choice([1, 1, 2, 8, 15, 16, 17, 33, rng.randint(1, largest)])
        # Apart from each other, so that writes do not overlap.
        address = (number << 16) + (rng.randrange(0, 200) * BEAT_BYTES) + (5 << 40)
        found.append((address, beats))
    return found


async def offer(ctx: Any, stream: Any, value: Any, set_value: Any) -> None:
    """Hold a value at a stream until it is taken."""
    set_value(value)
    ctx.set(stream.valid, 1)
    for _ in range(LIMIT):
        _, _, ready = await ctx.tick().sample(stream.ready)
        if ready:
            break
    else:
        raise AssertionError("not taken")
    ctx.set(stream.valid, 0)


async def request(ctx: Any, stream: Any, address: int, beats: int) -> None:
    """Ask for a transfer."""

    def put(_value: Any) -> None:
        ctx.set(stream.payload.address, address)
        ctx.set(stream.payload.beats, beats)

    await offer(ctx, stream, None, put)


def fill(memory: AxiMemory, transfers: list[tuple[int, int]], rng: random.Random) -> list[int]:
    """Put random beats where transfers read; these beats in order."""
    expected = []
    for address, beats in transfers:
        for i in range(beats):
            value = rng.getrandbits(512)
            memory.beats[address + i * BEAT_BYTES] = value
            expected.append(value)
    return expected
