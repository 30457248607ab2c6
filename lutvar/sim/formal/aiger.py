# SPDX-License-Identifier: Apache-2.0
"""And-inverter graphs: read what Yosys writes, unroll, and replay a counterexample.

A literal is `2 * node` or, inverted, `2 * node + 1`; node 0 is the constant 0. Nodes are numbered
inputs first, then latches, then AND gates in topological order, as in the binary AIGER format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Aig:
    """A sequential and-inverter graph; latches start at 0.

    Attributes:
        inputs: how many.
        latches: next-state literal of each latch.
        outputs: literals.
        ands: both operands of each gate.
    """

    inputs: int
    latches: tuple[int, ...]
    outputs: tuple[int, ...]
    ands: tuple[tuple[int, int], ...]

    @property
    def first_latch(self) -> int:
        """Node of the first latch."""
        return 1 + self.inputs

    @property
    def first_and(self) -> int:
        """Node of the first gate."""
        return self.first_latch + len(self.latches)

    def evaluate(self, state: Sequence[int], values: Sequence[int]) -> list[int]:
        """Value of every node, 0 or 1, in a cycle with this state and these inputs."""
        nodes = [0, *values, *state]
        for a, b in self.ands:
            nodes.append((nodes[a >> 1] ^ (a & 1)) & (nodes[b >> 1] ^ (b & 1)))
        return nodes

    def replay(self, inputs: Sequence[Sequence[int]], state: Sequence[int] = ()) -> list[list[int]]:
        """Values of every node in each cycle, from the initial state or from a given one."""
        current = list(state) or [0] * len(self.latches)
        cycles = []
        for values in inputs:
            nodes = self.evaluate(current, values)
            cycles.append(nodes)
            current = [nodes[n >> 1] ^ (n & 1) for n in self.latches]
        return cycles


def read_aiger(path: Path) -> Aig:
    """Read a binary AIGER file. Raises ValueError when it is none, or has initial values."""
    raw = path.read_bytes()
    lines_end = raw.index(b"\n")
    header = raw[:lines_end].split()
    if header[:1] != [b"aig"] or len(header) != 6:
        raise ValueError(f"{path} is no binary AIGER file of latches, outputs and gates")
    _, inputs, latches, outputs, ands = (int(n) for n in header[1:])
    at = lines_end + 1
    numbers: list[int] = []
    for _ in range(latches + outputs):
        end = raw.index(b"\n", at)
        fields = raw[at:end].split()
        if len(fields) != 1:
            raise ValueError(f"{path}: a latch has an initial value; write it with -zinit")
        numbers.append(int(fields[0]))
        at = end + 1

    def delta() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    gates = []
    for node in range(1 + inputs + latches, 1 + inputs + latches + ands):
        a = 2 * node - delta()
        gates.append((a, a - delta()))
    return Aig(inputs, tuple(numbers[:latches]), tuple(numbers[latches:]), tuple(gates))


def write_aiger(aig: Aig, path: Path) -> None:
    """Write a binary AIGER file."""
    total = aig.first_and - 1 + len(aig.ands)
    head = f"aig {total} {aig.inputs} {len(aig.latches)} {len(aig.outputs)} {len(aig.ands)}\n"
    text = head + "".join(f"{n}\n" for n in (*aig.latches, *aig.outputs))
    out = bytearray(text.encode())

    def put(value: int) -> None:
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)

    for node, (a, b) in enumerate(aig.ands, start=aig.first_and):
        high, low = max(a, b), min(a, b)
        put(2 * node - high)
        put(high - low)
    path.write_bytes(bytes(out))


class _Builder:
    """A graph without latches that grows; equal gates are one."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.gates: list[tuple[int, int]] = []
        self._known: dict[tuple[int, int], int] = {}

    def gate(self, a: int, b: int) -> int:
        """Literal of `a & b`."""
        a, b = max(a, b), min(a, b)
        if b == 0 or a == b ^ 1:
            return 0
        if b == 1 or a == b:
            return a
        if (a, b) not in self._known:
            self.gates.append((a, b))
            self._known[a, b] = 2 * (self.inputs + len(self.gates))
        return self._known[a, b]

    def copy(self, aig: Aig, state: list[int], first: int) -> list[int]:
        """Literals of a graph's nodes in a cycle whose inputs start at node `first`."""
        nodes = [0, *(2 * (first + n) for n in range(aig.inputs)), *state]
        for a, b in aig.ands:
            nodes.append(self.gate(nodes[a >> 1] ^ (a & 1), nodes[b >> 1] ^ (b & 1)))
        return nodes


def induction(aig: Aig, depth: int) -> Aig:
    """One output: output 0 is low for `depth` cycles from any state and high in the next one.

    Inputs are the state, then the inputs of each cycle; there are no latches. If the output cannot
    become 1, a graph that is good for its first `depth` cycles is good for ever.
    """
    latches = len(aig.latches)
    builder = _Builder(latches + aig.inputs * (depth + 1))
    state, result = [2 * (1 + n) for n in range(latches)], 1
    for cycle in range(depth + 1):
        nodes = builder.copy(aig, state, 1 + latches + cycle * aig.inputs)
        bad = nodes[aig.outputs[0] >> 1] ^ (aig.outputs[0] & 1)
        result = builder.gate(result, bad if cycle == depth else bad ^ 1)
        state = [nodes[n >> 1] ^ (n & 1) for n in aig.latches]
    return Aig(builder.inputs, (), (result,), tuple(builder.gates))


def bounded(aig: Aig, cycles: int) -> Aig:
    """One output: output 0 is high in one of the first cycles. Inputs are those of each cycle."""
    builder = _Builder(aig.inputs * cycles)
    state, result = [0] * len(aig.latches), 0
    for cycle in range(cycles):
        nodes = builder.copy(aig, state, 1 + cycle * aig.inputs)
        bad = nodes[aig.outputs[0] >> 1] ^ (aig.outputs[0] & 1)
        result = builder.gate(result ^ 1, bad ^ 1) ^ 1
        state = [nodes[n >> 1] ^ (n & 1) for n in aig.latches]
    return Aig(builder.inputs, (), (result,), tuple(builder.gates))
