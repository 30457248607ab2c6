# SPDX-License-Identifier: Apache-2.0
"""Programs byte by byte: the scheduler may become faster, its programs stay what they were.

`golden_programs.json` has hashes of programs, notes, exact waits and modelled cycles as the
compiler of version 0.2.0's first release candidate made them. A change on purpose (a better
schedule, another instruction) replaces them: `python tests/host/compile/test_golden_programs.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import INSTRUCTION_BYTES
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.compiler import CompiledPass, Compiler
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.sim.model.plans import plan

GOLDEN = Path(__file__).with_name("golden_programs.json")
MINI = TransformerShape(256, 2, 4, 1024, 512, (1, 2, 3, 5))
D16 = replace(TransformerShape.official("d16"), depth=2)
#: (accelerator, model): all schedules of each.
CASES = {
    "small-fp4 mini": ("small-fp4", MINI),
    "small-fp6 mini": ("small-fp6", MINI),
    "small-da-fp4 mini": ("small-da-fp4", MINI),
    "vck190-fp4 d16": ("vck190-fp4", D16),
    "vck190-fp6 mini": ("vck190-fp6", MINI),
}
SCHEDULES = (("single", 1), ("batch", 3), ("stagger", 1), ("stagger", 2))


def digest(compiled: CompiledPass) -> str:
    """Of everything but the header, which has the accelerator's hash."""
    program = compiled.program
    digest = hashlib.sha256(program.encode()[INSTRUCTION_BYTES:])
    digest.update(repr([tuple(note) for note in program.notes]).encode())
    digest.update(repr([tuple(item.waits) for item in program.instructions]).encode())
    digest.update(str(compiled.cycles).encode())
    return digest.hexdigest()[:24]


def digests(case: str) -> Iterator[tuple[str, str]]:
    """(schedule, digest) of a case. Classes are neither sorted nor all different."""
    config, shape = CASES[case]
    layout = ModelLayout.of(shape, load_accelerator(config), range(1001))
    exponents = range(-5, -5 + len(layout.layers))
    compiler = Compiler(layout, [*exponents], 1e-6, 1000)
    for schedule, batch in SCHEDULES:
        for guided in (True, False):
            parts = []
            for number, part in enumerate(plan(shape, schedule, batch, guided)):
                steps = [
                    replace(s, label=(7 * i + number % 2 * 995) % 1001)
                    for i, s in enumerate(part.steps)
                ]
                parts.append(digest(compiler.compile(steps)))
            together = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]
            yield f"{schedule} {batch} {'guided' if guided else 'alone'}", together


@pytest.mark.parametrize("case", CASES)
def test_programs_are_the_same(case: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    assert dict(digests(case)) == golden


if __name__ == "__main__":
    data = {case: dict(digests(case)) for case in CASES}
    GOLDEN.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
