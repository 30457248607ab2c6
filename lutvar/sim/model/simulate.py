# SPDX-License-Identifier: Apache-2.0
"""Runs a program on the cycle model: five units, their queues and waits, and the memory they share.

Events in time order. An instruction is dispatched in program order when its unit's queue has room;
it starts when its unit may take it and its waits are over; it occupies the unit for the cycles of
`costs`, longer when all ports together want more than the memory gives; it is done some cycles
later. MATRIX takes weights from FIFOs that FETCH fills, a beat a cycle on each weight port.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from dataclasses import dataclass, field

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.isa import UNITS, Opcode, Unit
from lutvar.host.compile.costs import Cost, CostModel
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of

DISPATCH = 2  #: cycles from one instruction to the next in the sequencer


@dataclass
class Simulation:
    """What a program does on the model. Cycles, and bytes by port.

    Attributes:
        cycles: from start to end.
        busy: by unit, cycles in which an instruction occupies it (FETCH: weights flow).
        issue: cycles in which the array takes a weight vector.
        traffic: bytes by port.
        operations: occupied cycles by (unit, layer or "attention").
        waits: cycles in which MATRIX stands still, by reason.
    """

    cycles: int = 0
    busy: list[float] = field(default_factory=lambda: [0.0] * len(UNITS))
    issue: int = 0
    traffic: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    operations: dict[tuple[Unit, str], float] = field(default_factory=lambda: defaultdict(float))
    waits: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def bytes(self) -> int:
        """All bytes moved."""
        return sum(self.traffic.values())

    @property
    def utilisation(self) -> float:
        """Share of the cycles in which the array takes a weight vector."""
        return self.issue / self.cycles if self.cycles else 0.0


@dataclass
class _Running:
    cost: Cost
    index: int  # in the program
    started: float
    left: float  # cycles at full speed
    rate: float  # bytes a cycle at full speed


class _Weights:
    """Beats of weights ahead of the array, on each weight port: a port brings one in each cycle."""

    def __init__(self, fifo: int) -> None:
        self.fifo, self.free_since = fifo, 0.0

    def matrix(self, start: float, available: float, beats: int, cycles: float) -> float:
        """Cycles that MATRIX needs for so many beats, that can come from `available` on.

        It cannot take fewer than `cycles`, whether beats come faster than it uses them or not.
        """
        ahead = min(self.fifo, max(0.0, start - max(self.free_since, available)))
        end = max(start + cycles, start + beats - ahead, available + beats)
        self.free_since = max(end - self.fifo, available)
        return end - start


def simulate(program: Program, costs: CostModel, memory: float | None = None) -> Simulation:
    """Run a program of one pass on the model.

    Args:
        program: with exact waits and notes (from the compiler).
        costs: of its accelerator.
        memory: bytes a cycle that all ports together get; None: no common limit.
    """
    return _Simulator(program, costs, memory).run()


class _Simulator:
    def __init__(self, program: Program, costs: CostModel, memory: float | None) -> None:
        self.items = program.instructions[:-1]
        self.notes, self.costs, self.memory = program.notes, costs, memory
        self.result = Simulation()
        self.queues: list[deque[tuple[int, float]]] = [deque() for _ in UNITS]
        self.done = [0] * len(UNITS)
        self.running: list[_Running | None] = [None] * len(UNITS)
        self.finishing: list[tuple[float, int]] = []  # heap of (time, unit)
        self.last_done = [0.0] * len(UNITS)
        self.now, self.next, self.dispatch_at = 0.0, 0, 0.0
        self.weights = _Weights(costs.config.weight_fifo)
        self._upcoming = [0] * len(UNITS)
        self.fetched: deque[tuple[int, int, float]] = deque()  # beats, panels, time

    def run(self) -> Simulation:
        while (
            self.next < len(self.items) or any(self.queues) or any(self.running) or self.finishing
        ):
            self._dispatch()
            while self._start():
                self._dispatch()
            self._advance()
        self.result.cycles = round(self.now)
        return self.result

    def _dispatch(self) -> None:
        depth = self.costs.config.queue
        while self.next < len(self.items) and self.dispatch_at <= self.now:
            item = self.items[self.next]
            unit = unit_of(item.opcode)
            if item.opcode == Opcode.FETCH:
                # FETCH needs nobody; its beats are accounted for with the MATRIX that uses them.
                if len(self.fetched) >= depth:
                    return
                o = item.operands
                beats = o["beats"] * o["panels"] * o["repeat"]
                self.fetched.append((beats, o["panels"], self.now + self.costs.times.memory))
                for port, size in self.costs.instruction(item).traffic:
                    self.result.traffic[port] += size
            else:
                if len(self.queues[unit]) >= depth:
                    return
                self.queues[unit].append((self.next, self.now))
            self.next += 1
            self.dispatch_at = max(self.dispatch_at, self.now) + DISPATCH

    def _start(self) -> bool:
        """Start what can start now; whether anything did."""
        any_started = False
        for unit in UNITS:
            queue = self.queues[unit]
            if self.running[unit] is not None or not queue:
                continue
            index, _ = queue[0]
            item = self.items[index]
            if any(d < w for d, w in zip(self.done, item.waits, strict=True)):
                continue
            cost = self.costs.instruction(item)
            occupied: float = cost.occupied
            if unit == Unit.MATRIX:
                beats = self._take(item.operands["groups"])
                if beats is None:
                    continue
                each = beats[0] // self.costs.config.weight_ports
                occupied = self.weights.matrix(self.now, beats[1], each, occupied)
                self.result.issue += cost.issue
                moved = beats[0] * BEAT_BYTES
            else:
                moved = sum(size for _, size in cost.traffic)
                for port, size in cost.traffic:
                    self.result.traffic[port] += size
            queue.popleft()
            left = max(occupied, 1.0)
            self.running[unit] = _Running(cost, index, self.now, left, moved / left)
            any_started = True
        return any_started

    def _take(self, groups: int) -> tuple[int, float] | None:
        """Beats and time of the panels of a MATRIX, if they are under way."""
        panels = beats = count = 0
        for size, number, _ in self.fetched:
            if panels >= groups:
                break
            panels, beats, count = panels + number, beats + size, count + 1
        if panels < groups:
            return None
        available = self.fetched[0][2]
        for _ in range(count):
            self.fetched.popleft()
        self.done[Unit.FETCH] += count  # once their last beat has left, which nobody is waiting for
        return beats, available

    def _advance(self) -> None:
        """Go to the next event."""
        active = [r for r in self.running if r is not None]
        speed = 1.0
        if self.memory is not None:
            wanted = sum(r.rate for r in active)
            speed = min(1.0, self.memory / wanted) if wanted else 1.0
        times = [self.now + r.left / speed for r in active]
        if self.finishing:
            times.append(self.finishing[0][0])
        if self.next < len(self.items) and self.dispatch_at > self.now:
            times.append(self.dispatch_at)
        if not times:
            raise RuntimeError(f"the program stands still at instruction {self.next}")
        then = max(self.now, min(times))
        step = then - self.now
        self._account(step)
        self.now = then
        for unit in UNITS:
            r = self.running[unit]
            if r is None:
                continue
            r.left -= step * speed
            if r.left <= 1e-6:
                spent = self.now - r.started
                self.result.busy[unit] += spent
                self.result.operations[unit, self.notes[r.index].what] += spent
                self.running[unit] = None
                end = max(self.last_done[unit], self.now + r.cost.tail)
                self.last_done[unit] = end
                heapq.heappush(self.finishing, (end, int(unit)))
        while self.finishing and self.finishing[0][0] <= self.now:
            self.done[heapq.heappop(self.finishing)[1]] += 1

    def _account(self, step: float) -> None:
        """Why MATRIX stands still."""
        if self.running[Unit.MATRIX] is not None or step <= 0:
            return
        index = self._next_of(Unit.MATRIX)
        self.result.waits["end" if index is None else self._why(index)] += step

    def _next_of(self, unit: Unit) -> int | None:
        """The instruction that a unit executes next, dispatched or not."""
        if self.queues[unit]:
            return self.queues[unit][0][0]
        at = self._upcoming[unit]
        while at < len(self.items) and (at < self.next or unit_of(self.items[at].opcode) != unit):
            at += 1
        self._upcoming[unit] = at
        return at if at < len(self.items) else None

    def _why(self, index: int) -> str:
        """The unit that an instruction waits for in the end: one that works."""
        for _ in UNITS:
            item = self.items[index]
            late = [u for u in UNITS if self.done[u] < item.waits[u]]
            if not late:
                unit = unit_of(item.opcode)
                if index >= self.next:
                    return "dispatch"
                return "weights" if unit == Unit.MATRIX else unit.name
            # FRONT needs ATTEND or POST; of several the one that depends on the others.
            unit = Unit.FRONT if Unit.FRONT in late else late[-1]
            following = self._next_of(unit)
            if self.running[unit] is not None or following is None:
                return unit.name
            index = following
        return unit.name
