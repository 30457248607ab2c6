# SPDX-License-Identifier: Apache-2.0
"""Runs a program on the cycle model: five units, their queues and waits, and the memory they share.

Events in time order. An instruction is dispatched in program order when its unit's queue has room;
it starts when its unit may take it and its waits are over; it occupies the unit for the cycles of
`costs`, longer when all ports together want more than the memory gives; it is done some cycles
later. MATRIX takes weights from FIFOs that FETCH fills, a beat a cycle on each weight port.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

from lutvar.contract.isa import UNITS, Unit
from lutvar.contract.widths import FRONT_SLOTS
from lutvar.host.compile.costs import Cost, CostModel
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of

DISPATCH = 2  #: cycles from one instruction to the next in the sequencer
_NOTHING = 1e-3  #: cycles that are an error of rounding
_FETCH, _FRONT, _MATRIX = int(Unit.FETCH), int(Unit.FRONT), int(Unit.MATRIX)


@dataclass
class Simulation:
    """What a program does on the model. Cycles, and bytes by port.

    Attributes:
        cycles: from start to end.
        busy: by unit, cycles in which an instruction occupies it (FETCH: weights flow).
        issue: cycles in which the array takes a weight vector.
        traffic: bytes by port.
        operations: occupied cycles by (unit, layer or "attention").
        waits: cycles in which the array takes no weight vector, by reason: a unit that the next
            instruction of MATRIX waits for, in the end; "weights" that come slower than it takes
            them or are not there yet; "operands" that are made ready; "memory" shared with other
            ports; "dispatch"; "end". With `issue` they are all cycles.
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


@dataclass(slots=True, eq=False)
class _Running:
    unit: int
    cost: Cost
    index: int  # in the program
    started: float
    left: float  # cycles at full speed
    rate: float  # bytes a cycle at full speed
    full: float  # cycles at full speed, all of them


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
    """One run. Units are plain numbers here, and everything that an instruction needs is looked up
    once: this is the inner loop of `lutvar estimate`."""

    def __init__(self, program: Program, costs: CostModel, memory: float | None) -> None:
        self.items = program.instructions[:-1]
        self.notes, self.costs, self.memory = program.notes, costs, memory
        self.result = Simulation()
        self.units = [int(unit_of(item.opcode)) for item in self.items]
        self.cost = [costs.instruction(item) for item in self.items]
        self.waits = [item.waits for item in self.items]
        self.queues: list[deque[int]] = [deque() for _ in UNITS]
        self.done = [0] * len(UNITS)
        self.running: list[_Running | None] = [None] * len(UNITS)
        self.finishing: list[tuple[float, int]] = []  # heap of (time, unit)
        self.last_done = [0.0] * len(UNITS)
        self.in_progress = [0] * len(UNITS)  # started and not done
        self.now, self.next, self.dispatch_at = 0.0, 0, 0.0
        self.weights = _Weights(costs.config.weight_fifo)
        self._upcoming = [0] * len(UNITS)
        #: Beats of the first weight port and of all, panels, time.
        self.fetched: deque[tuple[int, int, int, float]] = deque()
        self.spent: dict[tuple[int, str], float] = defaultdict(float)
        self.stood: dict[str, float] = defaultdict(float)

    def run(self) -> Simulation:
        count = len(self.items)
        while self.next < count or any(self.queues) or any(self.running) or self.finishing:
            self._dispatch()
            while self._start():
                self._dispatch()
            self._advance()
        self.result.cycles = round(self.now)
        self.result.waits.update((why, n) for why, n in self.stood.items() if n > _NOTHING)
        for (unit, what), spent in self.spent.items():
            self.result.operations[Unit(unit), what] = spent
        return self.result

    def _dispatch(self) -> None:
        depth, count = self.costs.config.queue, len(self.items)
        while self.next < count and self.dispatch_at <= self.now:
            unit = self.units[self.next]
            if unit == _FETCH:
                # FETCH needs nobody; its beats are accounted for with the MATRIX that uses them.
                if len(self.fetched) >= depth:
                    return
                panels, moved = self.items[self.next].operands["panels"], 0
                for port, size in self.cost[self.next].traffic:
                    self.result.traffic[port] += size
                    moved += size
                beats = self.cost[self.next].occupied
                available = self.now + self.costs.times.memory
                self.fetched.append((beats, moved, panels, available))
            else:
                if len(self.queues[unit]) >= depth:
                    return
                self.queues[unit].append(self.next)
            self.next += 1
            self.dispatch_at = max(self.dispatch_at, self.now) + DISPATCH

    def _late(self, index: int) -> bool:
        """Whether an instruction still waits for others."""
        done, waits = self.done, self.waits[index]
        return (
            done[0] < waits[0] or done[1] < waits[1] or done[2] < waits[2]
            or done[3] < waits[3] or done[4] < waits[4]
        )  # fmt: skip

    def _start(self) -> bool:
        """Start what can start now; whether anything did."""
        any_started = False
        for unit, queue in enumerate(self.queues):
            if not queue or self.running[unit] is not None or self._late(queue[0]):
                continue
            if unit == _FRONT and self.in_progress[unit] == FRONT_SLOTS:
                continue
            index = queue[0]
            cost = self.cost[index]
            occupied: float = cost.occupied
            if unit == _MATRIX:
                taken = self._take(self.items[index].operands["groups"])
                if taken is None:
                    continue
                beats, moved, available = taken
                occupied = self.weights.matrix(self.now, available, beats, occupied)
                self.result.issue += cost.issue
            else:
                moved = 0
                for port, size in cost.traffic:
                    moved += size
                    self.result.traffic[port] += size
            queue.popleft()
            self.in_progress[unit] += 1
            left = max(occupied, 1.0)
            self.running[unit] = _Running(unit, cost, index, self.now, left, moved / left, left)
            any_started = True
        return any_started

    def _take(self, groups: int) -> tuple[int, int, float] | None:
        """First port's beats, all bytes and time of a MATRIX's panels, if they are under way."""
        panels = beats = moved = count = 0
        for own, size, number, _ in self.fetched:
            if panels >= groups:
                break
            panels, beats, moved, count = panels + number, beats + own, moved + size, count + 1
        if panels < groups:
            return None
        available = self.fetched[0][3]
        for _ in range(count):
            self.fetched.popleft()
        self.done[_FETCH] += count  # once their last beat has left, which nobody is waiting for
        return beats, moved, available

    def _advance(self) -> None:
        """Go to the next event."""
        now, running, finishing = self.now, self.running, self.finishing
        active = [r for r in running if r is not None]
        speed = 1.0
        if self.memory is not None:
            demand = 0.0
            for r in active:
                demand += r.rate
            if demand > self.memory:
                speed = self.memory / demand
        then = finishing[0][0] if finishing else math.inf
        if now < self.dispatch_at < then and self.next < len(self.items):
            then = self.dispatch_at
        for r in active:
            end = now + r.left / speed
            if end < then:
                then = end
        if then == math.inf:
            raise RuntimeError(f"the program stands still at instruction {self.next}")
        if then < now:
            then = now
        step = then - now
        if step > 0 and running[_MATRIX] is None:
            self._account(step)
        self.now = then
        progress = step * speed
        for r in active:
            r.left -= progress
            if r.left <= 1e-6:
                unit = r.unit
                spent = then - r.started
                if unit == _MATRIX:
                    self.stood["operands"] += r.cost.starts
                    self.stood["weights"] += r.full - r.cost.starts - r.cost.issue
                    self.stood["memory"] += spent - r.full
                self.result.busy[unit] += spent
                self.spent[unit, self.notes[r.index].what] += spent
                running[unit] = None
                end = max(self.last_done[unit], then + r.cost.tail)
                self.last_done[unit] = end
                heapq.heappush(finishing, (end, unit))
        while finishing and finishing[0][0] <= then:
            unit = heapq.heappop(finishing)[1]
            self.done[unit] += 1
            self.in_progress[unit] -= 1

    def _account(self, step: float) -> None:
        """Why MATRIX stands still."""
        index = self._next_of(_MATRIX)
        self.stood["end" if index is None else self._why(index)] += step

    def _next_of(self, unit: int) -> int | None:
        """The instruction that a unit executes next, dispatched or not."""
        if self.queues[unit]:
            return self.queues[unit][0]
        at, count = max(self._upcoming[unit], self.next), len(self.items)
        while at < count and self.units[at] != unit:
            at += 1
        self._upcoming[unit] = at
        return at if at < count else None

    def _why(self, index: int) -> str:
        """The unit that an instruction waits for in the end: one that works."""
        for _ in UNITS:
            late = [u for u, w in enumerate(self.waits[index]) if self.done[u] < w]
            if not late:
                unit = self.units[index]
                if index >= self.next:
                    return "dispatch"
                return "weights" if unit == _MATRIX else Unit(unit).name
            # FRONT needs ATTEND or POST; of several the one that depends on the others.
            unit = _FRONT if _FRONT in late else late[-1]
            following = self._next_of(unit)
            if self.running[unit] is not None or following is None:
                return Unit(unit).name
            index = following
        return Unit(unit).name
