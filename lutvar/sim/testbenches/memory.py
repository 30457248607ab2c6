# SPDX-License-Identifier: Apache-2.0
"""AXI4 memory behind the accelerator's masters: random pauses, injected errors, silence, AXI rules.

One process serves every port, once a cycle; models with a process for each channel would take
most of the simulation's time.
"""

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cocotb.triggers import RisingEdge

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.register_map import WRITE_PORTS

from .channels import Answers, Channel

PAGE = 4096
MOST_BURSTS = 16  #: outstanding on a port
DECERR = 3


@dataclass
class Burst:
    """A burst under way; the next beat is at `data[at]`."""

    data: bytearray
    at: int
    left: int
    due: int
    response: int


class Memory:
    """Segments of memory, and a slave for each of the build's ports.

    Attributes:
        segments: base address -> contents.
        pauses: probability that a channel rests in a cycle.
        latency: least and largest number of cycles to a burst's first beat or to its response.
        silent: ports, `(name, write)`, that take addresses but never answer.
        injected_errors: port -> (first address, last address, response).
        wrong_last: read port -> beats by which RLAST comes too late (or, below 0, too early), once:
            the next burst that is long enough.
        unsolicited: port -> answers to give that nothing has asked for, while it has no burst.
        strays: (port, address) of bursts for which there is no memory.
        late: a reset of the accelerator leaves the memory alone: bursts that it cuts off are
            answered between so many cycles after it. None: they are forgotten.
        answered_late: bursts that `late` was drawn for, in the last reset.
        beats: moved, by port.
    """

    def __init__(self, dut: Any, read_ports: Sequence[str], seed: int = 1) -> None:
        self.segments: dict[int, bytearray] = {}
        self.pauses, self.latency = 0.0, (4, 4)
        self.silent: set[tuple[str, bool]] = set()
        self.late: tuple[int, int] | None = None
        self.answered_late = 0
        self.injected_errors: dict[tuple[str, bool], tuple[int, int, int]] = {}
        self.wrong_last: dict[tuple[str, bool], int] = {}
        self.unsolicited: dict[tuple[str, bool], int] = {}
        self.strays: list[tuple[tuple[str, bool], int]] = []
        self.rng = random.Random(seed)
        self.now = 0
        self._dut = dut
        self.ports: dict[tuple[str, bool], _Port] = {
            **{(name, False): _ReadPort(self, dut, name) for name in read_ports},
            **{(name, True): _WritePort(self, dut, name) for name in WRITE_PORTS},
        }

    def rests(self) -> bool:
        """Whether a channel pauses in this cycle."""
        return bool(self.pauses) and self.rng.random() < self.pauses

    def read(self, address: int, count: int) -> bytes:
        """Bytes at an address. Raises AssertionError when nothing is there."""
        data, at = self.find(address, count)
        return bytes(data[at : at + count])

    def write(self, address: int, content: bytes) -> None:
        """Store bytes at an address. Raises AssertionError when nothing is there."""
        data, at = self.find(address, len(content))
        data[at : at + len(content)] = content

    def find(self, address: int, count: int) -> tuple[bytearray, int]:
        """Segment and offset of an address. Raises IndexError outside all of them."""
        for base, data in self.segments.items():
            if base <= address and address + count <= base + len(data):
                return data, address - base
        raise IndexError(f"no memory at {address:#x}")

    def begin(self, key: tuple[str, bool], address: int, beats: int) -> Burst:
        """Check a burst against the rules of AXI, and find its data and its response."""
        size = beats * BEAT_BYTES
        assert address % BEAT_BYTES == 0, f"m_axi_{key[0]}: {address:#x} is not aligned"
        assert address // PAGE == (address + size - 1) // PAGE, f"{address:#x} crosses 4 KiB"
        response = 0
        try:
            data, at = self.find(address, size)
        except IndexError:
            data, at, response = bytearray(size), 0, DECERR
            self.strays.append((key, address))
        first, last, error = self.injected_errors.get(key, (0, -1, 0))
        if address <= last and address + size > first:
            response = error
        shift = self.wrong_last.get(key, 0)
        if shift and beats + shift > 0:
            del self.wrong_last[key]
            beats += shift
        return Burst(data, at, beats, self.due(), response)

    def due(self) -> int:
        """Cycle in which a burst that comes now is answered."""
        return self.now + self.rng.randint(*self.latency)

    def beats(self, name: str, write: bool = False) -> int:
        """Beats moved on a port since the start."""
        return self.ports[name, write].beats

    @property
    def outstanding(self) -> int:
        """Bursts that are not answered to the end."""
        return sum(port.outstanding for port in self.ports.values())

    def clear(self) -> None:
        """Forget bursts under way, as in a reset of the interconnect."""
        for port in self.ports.values():
            port.clear()

    def cut_off(self) -> None:
        """The accelerator is reset: it offers nothing, and what is under way is `late` or lost."""
        if self.late is None:
            self.clear()
            return
        for port in self.ports.values():
            port.cut_off(self.now + self.rng.randint(*self.late))
        self.answered_late = self.outstanding

    async def serve(self) -> None:
        """Background process."""
        edge, reset = RisingEdge(self._dut.ap_clk), self._dut.ap_rst_n
        ports = list(self.ports.values())
        running = True
        while True:
            await edge
            self.now += 1
            if not reset.value:
                if running or self.late is None:
                    self.cut_off()
                running = False
                for port in ports:
                    port.answer()
                continue
            running = True
            for port in ports:
                port.step()


class _Port(ABC):
    beats = 0
    _stray = False  # nobody has asked for the answer that is shown

    def __init__(self, memory: Memory, key: tuple[str, bool]) -> None:
        self._memory, self._key = memory, key
        self.bursts: list[int] = []  # where each one started

    @property
    def _silent(self) -> bool:
        return self._key in self._memory.silent

    def _unsolicited(self) -> bool:
        """Whether to show an answer that nobody has asked for."""
        left = self._memory.unsolicited
        self._stray = not self.outstanding and bool(left.get(self._key))
        if self._stray:
            left[self._key] -= 1
        return self._stray

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """Bursts that were asked for and are not answered."""

    @abstractmethod
    def step(self) -> None:
        """One cycle."""

    @abstractmethod
    def answer(self) -> None:
        """One cycle of the channel with the answers."""

    @abstractmethod
    def cut_off(self, due: int) -> None:
        """Forget what is not whole; answer what is from cycle `due` on."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what is under way: a reset."""


class _ReadPort(_Port):
    def __init__(self, memory: Memory, dut: Any, name: str) -> None:
        super().__init__(memory, (name, False))
        prefix = f"m_axi_{name}_"
        self._ar = Channel(dut, f"{prefix}ar", ("addr", "len"))
        self._r = Answers(dut, f"{prefix}r", ("data", "resp", "last"))
        self._bursts: deque[Burst] = deque()

    @property
    def outstanding(self) -> int:
        return len(self._bursts)

    def clear(self) -> None:
        self._bursts.clear()
        self._ar.forget()
        self._r.hide()

    def cut_off(self, due: int) -> None:
        self._ar.forget()
        for burst in self._bursts:
            burst.due = due

    def step(self) -> None:
        request = self._ar.take()
        if request is not None:
            self.bursts.append(request[0])
            self._bursts.append(self._memory.begin(self._key, request[0], request[1] + 1))
        self._ar.drive(len(self._bursts) < MOST_BURSTS and not self._memory.rests())
        self.answer()

    def answer(self) -> None:
        memory, bursts = self._memory, self._bursts
        if self._r.taken() and self._stray:
            self._stray = False
            self._r.hide()
        elif self._r.taken():
            self.beats += 1
            self._r.hide()
            burst = bursts[0]
            burst.at += BEAT_BYTES
            burst.left -= 1
            if not burst.left:
                bursts.popleft()
        if not self._r.showing and self._unsolicited():
            self._r.show(random.getrandbits(8 * BEAT_BYTES), DECERR, random.getrandbits(1))
        if self._r.showing or not bursts or bursts[0].due > memory.now or self._silent:
            return
        if not memory.rests():
            burst = bursts[0]
            beat = burst.data[burst.at : burst.at + BEAT_BYTES]
            self._r.show(int.from_bytes(beat, "little"), burst.response, int(burst.left == 1))


class _WritePort(_Port):
    def __init__(self, memory: Memory, dut: Any, name: str) -> None:
        super().__init__(memory, (name, True))
        prefix = f"m_axi_{name}_"
        self._aw = Channel(dut, f"{prefix}aw", ("addr", "len"))
        self._w = Channel(dut, f"{prefix}w", ("data", "strb", "last"))
        self._b = Answers(dut, f"{prefix}b", ("resp",))
        self._bursts: deque[Burst] = deque()
        self._early: deque[tuple[int, ...]] = deque()  # data without an address yet
        self._answers: deque[Burst] = deque()

    @property
    def outstanding(self) -> int:
        return len(self._bursts) + len(self._answers) + bool(self._early)

    def clear(self) -> None:
        for queue in (self._bursts, self._early, self._answers):
            queue.clear()
        self._aw.forget()
        self._w.forget()
        self._b.hide()

    def cut_off(self, due: int) -> None:
        # A burst without all its data would wait for ever; a firewall before the memory ends it.
        self._bursts.clear()
        self._early.clear()
        self._aw.forget()
        self._w.forget()
        for burst in self._answers:
            burst.due = due

    def step(self) -> None:
        memory = self._memory
        request = self._aw.take()
        if request is not None:
            self.bursts.append(request[0])
            self._bursts.append(memory.begin(self._key, request[0], request[1] + 1))
        beat = self._w.take()
        if beat is not None:
            self.beats += 1
            self._early.append(beat)
        while self._bursts and self._early:
            self._store(*self._early.popleft())
        self._aw.drive(len(self._bursts) < MOST_BURSTS and not memory.rests())
        self._w.drive(len(self._early) < MOST_BURSTS and not memory.rests())
        self.answer()

    def answer(self) -> None:
        memory, answers = self._memory, self._answers
        if self._b.taken():
            self._b.hide()
            if not self._stray:
                answers.popleft()
            self._stray = False
        if not self._b.showing and self._unsolicited():
            self._b.show(DECERR)
        if self._b.showing or not answers or answers[0].due > memory.now or self._silent:
            return
        if not memory.rests():
            self._b.show(answers[0].response)

    def _store(self, data: int, strobe: int, last: int) -> None:
        burst = self._bursts[0]
        if not burst.response:
            raw = data.to_bytes(BEAT_BYTES, "little")
            for i in range(BEAT_BYTES):
                if strobe >> i & 1:
                    burst.data[burst.at + i] = raw[i]
        burst.at += BEAT_BYTES
        burst.left -= 1
        assert bool(last) == (burst.left == 0), f"m_axi_{self._key[0]}: WLAST is wrong"
        if not burst.left:
            burst.due = self._memory.due()
            self._answers.append(burst)
            self._bursts.popleft()
