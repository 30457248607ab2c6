# SPDX-License-Identifier: Apache-2.0
"""Counterexamples as VCD files, replayed on the graph that was refuted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .aiger import Aig

_Bit = Callable[[list[int]], int]


def signals(graph: Aig, mapping: Path) -> dict[str, dict[int, _Bit]]:
    """Name -> bit -> its value among the nodes of a cycle, for every named signal of a graph.

    Args:
        mapping: what Yosys writes with `write_aiger -vmap`.
    """
    found: dict[str, dict[int, _Bit]] = {}
    for line in mapping.read_text(encoding="utf-8").splitlines():
        kind, number, bit, name = (*line.split(maxsplit=3), "", "", "")[:4]
        if not name or "$" in name or name.startswith("probe_"):
            continue
        at = int(number)
        if kind == "input":
            literal = 2 * (1 + at)
        elif kind == "output":
            literal = graph.outputs[at]
        elif kind == "wire":
            literal = at
        else:
            continue

        def value(nodes: list[int], literal: int = literal) -> int:
            return nodes[literal >> 1] ^ (literal & 1)

        found.setdefault(name, {})[int(bit)] = value
    return found


def write_trace(
    graph: Aig, mapping: Path, inputs: Sequence[Sequence[int]], state: Sequence[int], path: Path
) -> list[str]:
    """Replay inputs and write every named signal as VCD, one cycle every 10 ns.

    Args:
        state: first state; empty: the initial one.

    Returns:
        Requirements and lemmas that do not hold in the last cycle.

    Raises:
        ValueError: all hold; then the replay is not what the engine saw.
    """
    cycles = graph.replay(inputs, state)
    names = signals(graph, mapping)
    broken = [
        re.sub("^(broken|open)_", "", name)
        for name, bits in sorted(names.items())
        if name.startswith(("broken_", "open_")) and bits[0](cycles[-1])
    ]
    # A requirement whose own signal was optimised away shows in the sum of all.
    if not broken and any(bits[0](cycles[-1]) for n, bits in names.items() if n == "open"):
        broken = ["a requirement"]
    if not broken:
        raise ValueError(f"the replay of {path.stem} breaks no requirement")
    lines = ["$timescale 1ns $end", "$scope module proof $end"]
    codes = {name: f"s{number}" for number, name in enumerate(sorted(names))}
    for name, code in codes.items():
        lines.append(f"$var wire {max(names[name]) + 1} {code} {re.sub(r'[ ]', '_', name)} $end")
    lines += ["$upscope $end", "$enddefinitions $end"]
    last: dict[str, str] = {}
    for cycle, nodes in enumerate(cycles):
        lines.append(f"#{10 * cycle}")
        for name, code in codes.items():
            bits = names[name]
            text = "".join(
                str(bits[b](nodes)) if b in bits else "0" for b in range(max(bits), -1, -1)
            )
            if last.get(name) != text:
                lines.append(f"b{text} {code}")
                last[name] = text
    lines.append(f"#{10 * len(cycles)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return broken
