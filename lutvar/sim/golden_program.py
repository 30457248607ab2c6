# SPDX-License-Identifier: Apache-2.0
"""What the golden device makes of a program: its errors, what it moves, how long it takes.

The rules are those of the fuzzer's oracle, written from the instruction set and not from the
gateware. Times are those of the scheduler's cost model: modelled, not simulated.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import (
    UNITS,
    Instruction,
    decode,
    split_address,
)
from lutvar.contract.register_map import DeviceError
from lutvar.host.compile.clocks import WRAP
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.schedule import unit_of

from .fuzz.rules import misfit, refusal
from .golden_transfers import Window, pieces

KEPT = 32  #: verdicts
START = 60  #: cycles from the start to the first instruction, as the sequencer documents


@dataclass(frozen=True)
class Failure:
    """An error as the registers tell it."""

    code: DeviceError
    info: int = 0
    address: int = 0


@dataclass
class Verdict:
    """What a program does.

    Attributes:
        order: instructions in an order that their waits allow, END left out; with a failure those
            that come before it.
        failure: the error that ends it, or None.
        cycles: modelled, from start to end.
        counts: what the counters of `docs/registers.md` gain, by name.
        stuck: it ends by its watchdog.
    """

    order: list[Instruction] = field(default_factory=list)
    failure: Failure | None = None
    cycles: int = START
    counts: Counter[str] = field(default_factory=Counter)
    stuck: bool = False


class Judge:
    """Judges programs for one accelerator and its memory.

    Args:
        config: of the accelerator.
        memory: first address and end of the memory that answers.
    """

    def __init__(self, config: AcceleratorConfig, memory: Window) -> None:
        self.config, self.memory, self.costs = config, memory, CostModel(config)
        self._known: OrderedDict[tuple[object, ...], Verdict] = OrderedDict()

    def transfer(
        self, windows: Sequence[Window], port: str, write: bool, start: int, size: int
    ) -> Failure | None:
        """The error that a transfer ends in, or None."""
        if not any(low <= start and start + size <= high for low, high in windows):
            return Failure(DeviceError[f"OUTSIDE_{port.upper()}"], int(write), start)
        if not self.memory[0] <= start <= start + size <= self.memory[1]:
            return Failure(DeviceError[f"{'WRITE' if write else 'READ'}_{port.upper()}"], 0, start)
        return None

    def moves(
        self, item: Instruction, bases: Sequence[int], windows: Sequence[Window]
    ) -> tuple[Failure | None, Counter[str]]:
        """The first error of an instruction's transfers, and beats by counter."""
        beats: Counter[str] = Counter()
        for piece in pieces(item, self.config):
            region, offset = split_address(piece.address)
            base = bases[region] + offset
            low, high = piece.span(base)
            inside = any(a <= low and high <= b for a, b in windows)
            if not inside or not self.memory[0] <= low <= high <= self.memory[1]:
                for start in piece.starts(base):
                    wrong = self.transfer(windows, piece.port, piece.write, start, piece.size)
                    if wrong is not None:
                        return wrong, beats
            name = f"{'WRITE' if piece.write else 'READ'}_BEATS_{piece.port.upper()}"
            beats[name] += piece.beats
        return None, beats

    def program(
        self, words: Sequence[bytes], bases: Sequence[int], windows: Sequence[Window]
    ) -> Verdict:
        """Judge a program: its header and instructions, 64 bytes each, as they lie in memory.

        The latest verdicts are kept: a pass runs again for every image.
        """
        key = b"".join(words), tuple(bases), tuple(windows)
        if key not in self._known:
            self._known[key] = self._program(words, bases, windows)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _program(
        self, words: Sequence[bytes], bases: Sequence[int], windows: Sequence[Window]
    ) -> Verdict:
        verdict = Verdict()
        numbers = [int.from_bytes(word, "little") for word in words]
        wrong = refusal(self.config, numbers)
        verdict.counts["READ_BEATS_PROG"] = len(words)
        if wrong is not None:
            verdict.failure = Failure(*wrong)
            return verdict
        items = [decode(word, i) for i, word in enumerate(words[1:])]
        loose = misfit(self.config, numbers)
        order = _possible_order(items, self.config.queue)
        verdict.stuck = len(order) < len(items) - 1
        times = _Times(self.costs)
        for index in order:
            item = items[index]
            if loose is not None and index == loose[1]:
                verdict.failure = Failure(*loose)
                break
            verdict.failure, beats = self.moves(item, bases, windows)
            verdict.counts.update(beats)
            if verdict.failure is not None:
                break
            verdict.order.append(item)
            times.add(item)
        for name, count in times.counts.items():
            verdict.counts[name] += count
        verdict.stuck = verdict.stuck and verdict.failure is None
        verdict.cycles = START + times.end
        return verdict


def _possible_order(items: Sequence[Instruction], queue: int) -> list[int]:
    """Indices in an order in which the units may take them; short when the program stands still.

    Instructions are dispatched in order, one whose unit's queue is full holds up the rest; counts
    compare modulo 2**16 by the sign of their difference, as on the device.
    """
    done = [0] * len(UNITS)
    queues: list[deque[int]] = [deque() for _ in UNITS]
    order: list[int] = []

    def run() -> None:
        going = True
        while going:
            going = False
            for unit, waiting in enumerate(queues):
                while waiting and all(
                    (d - w) % WRAP < WRAP // 2
                    for d, w in zip(done, items[waiting[0]].waits, strict=True)
                ):
                    order.append(waiting.popleft())
                    done[unit] += 1
                    going = True

    for index, item in enumerate(items[:-1]):
        unit = unit_of(item.opcode)
        if len(queues[unit]) > queue:
            break
        queues[unit].append(index)
        run()
    return order


class _Times:
    """When instructions start and end in the cost model, and what the counters say of it."""

    def __init__(self, costs: CostModel) -> None:
        self.costs, self.end = costs, 0
        self.counts: Counter[str] = Counter()
        self._free = [0] * len(UNITS)
        self._done: list[list[int]] = [[0] for _ in UNITS]

    def add(self, item: Instruction) -> None:
        """The next instruction."""
        unit, cost = unit_of(item.opcode), self.costs.instruction(item)
        start = self._free[unit]
        for other, wait in enumerate(item.waits):
            done = self._done[other]
            back = (len(done) - 1 - wait) % WRAP
            start = max(start, done[max(0, len(done) - 1 - back)])
        self._free[unit] = start + cost.occupied
        end = max(self._done[unit][-1], start + cost.occupied + cost.tail)
        self._done[unit].append(end)
        self.end = max(self.end, end)
        for name in ("BUSY", "ACTIVE"):
            self.counts[f"{name}_{unit.name}"] += cost.occupied
        self.counts["MATRIX_ISSUE"] += cost.issue
