# SPDX-License-Identifier: Apache-2.0
"""AXI4 memory in Python for Amaranth's simulator; checks the rules that a master must keep."""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

BEAT_BYTES = 64
SLVERR = 2


@dataclass
class AxiMemory:
    """Sparse memory of 64-byte beats behind any number of ports.

    Attributes:
        latency: cycles from a request to its first beat or response, at least.
        jitter: further cycles, at most, drawn for each burst.
        stall: probability that a channel pauses in a cycle.
        bad: byte addresses of beats that answer SLVERR.
        beats: content by byte address; what was never written reads as 0.
    """

    seed: int = 0
    latency: int = 4
    jitter: int = 0
    stall: float = 0.0
    bad: frozenset[int] = frozenset()
    beats: dict[int, int] = field(default_factory=dict)
    read_bursts: list[tuple[int, int]] = field(default_factory=list)
    write_bursts: list[tuple[int, int]] = field(default_factory=list)
    outstanding: int = 0
    freeze: bool = False  #: answers nothing while set; requests are still taken

    def write(self, address: int, content: bytes) -> None:
        assert address % BEAT_BYTES == 0
        content = content + bytes(-len(content) % BEAT_BYTES)
        for at in range(0, len(content), BEAT_BYTES):
            beat = int.from_bytes(content[at : at + BEAT_BYTES], "little")
            self.beats[address + at] = beat

    def read(self, address: int, size: int) -> bytes:
        beats = range(address, address + size, BEAT_BYTES)
        whole = b"".join(self.beats.get(a, 0).to_bytes(BEAT_BYTES, "little") for a in beats)
        return whole[:size]

    def _due(self, rng: random.Random, cycle: int) -> int:
        return cycle + self.latency + rng.randint(0, self.jitter)

    @staticmethod
    def _check_burst(address: int, length: int) -> None:
        assert address % BEAT_BYTES == 0, f"address {address:#x} is not aligned"
        assert 1 <= length <= 16, f"burst of {length} beats"
        last = address + length * BEAT_BYTES - 1
        assert address >> 12 == last >> 12, f"burst at {address:#x} crosses 4 KiB"

    def reader(self, axi: Any) -> Callable[[Any], Any]:
        """Background process that serves the AR and R channels of `axi`."""
        rng = random.Random(f"{self.seed} read {len(self.read_bursts)}")

        async def process(ctx: Any) -> None:
            waiting: deque[tuple[int, int, bool]] = deque()  # due, address, last
            offered: tuple[int, int] | None = None
            showing = False
            cycle = 0
            while True:
                pause = self.stall and rng.random() < self.stall
                if not showing and waiting and waiting[0][0] <= cycle and not pause:
                    if not self.freeze:
                        _, address, last = waiting.popleft()
                        showing = True
                        ctx.set(axi.rdata, self.beats.get(address, 0))
                        ctx.set(axi.rresp, SLVERR if address in self.bad else 0)
                        ctx.set(axi.rlast, last)
                elif not showing:
                    ctx.set(axi.rdata, rng.getrandbits(512))
                ctx.set(axi.rvalid, showing)
                ready = not (self.stall and rng.random() < self.stall)
                ctx.set(axi.arready, ready)
                _, _, valid, address, length, rready = await ctx.tick().sample(
                    axi.arvalid, axi.araddr, axi.arlen, axi.rready
                )
                cycle += 1
                if offered is not None:
                    assert valid and (address, length) == offered, "AR changed before AREADY"
                offered = (address, length) if valid and not ready else None
                if showing and rready:
                    showing = False
                    self.outstanding -= 1
                if valid and ready:
                    self._check_burst(address, length + 1)
                    self.read_bursts.append((address, length + 1))
                    due = self._due(rng, cycle)
                    self.outstanding += length + 1
                    for beat in range(length + 1):
                        waiting.append((due, address + beat * BEAT_BYTES, beat == length))

        return process

    def writer(self, axi: Any) -> Callable[[Any], Any]:
        """Background process that serves the AW, W and B channels of `axi`."""
        rng = random.Random(f"{self.seed} write {len(self.write_bursts)}")

        async def process(ctx: Any) -> None:
            bursts: deque[tuple[int, int]] = deque()  # AW without all their data
            beats: deque[tuple[int, int, int]] = deque()  # W without AW
            answers: deque[tuple[int, int]] = deque()
            offered_aw: Any = None
            offered_w: Any = None
            showing = False
            cycle = 0
            while True:
                pause = self.stall and rng.random() < self.stall
                ready = answers and answers[0][0] <= cycle and not pause and not self.freeze
                if not showing and ready:
                    showing = True
                    ctx.set(axi.bresp, answers.popleft()[1])
                ctx.set(axi.bvalid, showing)
                aw_ready = not (self.stall and rng.random() < self.stall)
                w_ready = not (self.stall and rng.random() < self.stall)
                ctx.set(axi.awready, aw_ready)
                ctx.set(axi.wready, w_ready)
                _, _, awv, awa, awl, wv, wd, ws, wl, bready = await ctx.tick().sample(
                    axi.awvalid, axi.awaddr, axi.awlen,
                    axi.wvalid, axi.wdata, axi.wstrb, axi.wlast, axi.bready,
                )  # fmt: skip
                cycle += 1
                assert offered_aw is None or (awv and (awa, awl) == offered_aw), "AW changed"
                assert offered_w is None or (wv and (wd, ws, wl) == offered_w), "W changed"
                offered_aw = (awa, awl) if awv and not aw_ready else None
                offered_w = (wd, ws, wl) if wv and not w_ready else None
                if showing and bready:
                    showing = False
                    self.outstanding -= 1
                if awv and aw_ready:
                    self._check_burst(awa, awl + 1)
                    self.write_bursts.append((awa, awl + 1))
                    bursts.append((awa, awl + 1))
                    self.outstanding += 1
                if wv and w_ready:
                    beats.append((wd, ws, wl))
                while bursts and len(beats) >= bursts[0][1]:
                    address, length = bursts.popleft()
                    response = 0
                    for beat in range(length):
                        value, strobe, last = beats.popleft()
                        assert last == (beat == length - 1), "WLAST at the wrong beat"
                        at = address + beat * BEAT_BYTES
                        self._store(at, value, strobe)
                        response |= SLVERR if at in self.bad else 0
                    answers.append((self._due(rng, cycle), response))

        return process

    def _store(self, address: int, value: int, strobe: int) -> None:
        if strobe == (1 << BEAT_BYTES) - 1:
            self.beats[address] = value
            return
        mask = sum(0xFF << 8 * i for i in range(BEAT_BYTES) if strobe >> i & 1)
        self.beats[address] = (self.beats.get(address, 0) & ~mask) | (value & mask)


def serve(simulator: Any, memory: AxiMemory, reads: Iterable[Any], writes: Iterable[Any]) -> None:
    """Attach ports to a memory."""
    for axi in reads:
        simulator.add_testbench(memory.reader(axi), background=True)
    for axi in writes:
        simulator.add_testbench(memory.writer(axi), background=True)
