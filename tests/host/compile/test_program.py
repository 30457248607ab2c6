# SPDX-License-Identifier: Apache-2.0
"""Programs as bytes and text, rows of passes, limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from lutvar.cli.main import cli
from lutvar.contract.isa import INSTRUCTION_BYTES, Opcode, PostOp, ProgramError
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.disassemble import disassemble
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.layer_plan import split_outputs
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.host.compile.steps import StepShape, place_rows
from support.host.compile_cases import DIGITS, ODD, accelerator, compile_pass, compiler, staggered

SMALL = accelerator()


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_pass(DIGITS, SMALL, staggered(DIGITS)).program


def test_bytes_and_back(program: Program) -> None:
    raw = program.encode()
    assert len(raw) == (len(program.instructions) + 1) * INSTRUCTION_BYTES
    back = Program.decode(raw)
    assert back.exact() == program
    assert back.accelerator_hash == accelerator_hash(SMALL)


@pytest.mark.slow
def test_counts_beyond_16_bits_come_back(program: Program) -> None:
    one = program.instructions
    # The same pass again and again, waits shifted: more than 2**16 POST instructions.
    counts = [sum(i.opcode == k for i in one) for k in range(1, 6)]
    times = (1 << 16) // max(counts) + 3
    shifts = [[n * c for c in counts] for n in range(times)]
    long = [(i, [w + s for w, s in zip(i.waits, shift, strict=True)])
            for shift in shifts for i in one[:-1]]  # fmt: skip
    long.append((one[-1], [c * times for c in counts]))
    assert max(long[-1][1]) > 1 << 16
    wrapped = tuple(replace(i, waits=tuple(w % (1 << 16) for w in waits)) for i, waits in long)
    exact = Program(wrapped, 0).exact()
    assert [list(i.waits) for i in exact.instructions] == [waits for _, waits in long]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-64], "cut or altered|not END"),
        (lambda raw: raw[:100], "bytes"),
        (lambda raw: b"\0" * 8 + raw[8:], "magic"),
        (lambda raw: raw[:64] + raw[128:192] + raw[128:], "not a program|index"),
        (lambda raw: raw[:-1] + b"\1", "unused bits"),
    ],
)
def test_what_is_no_program_is_refused(program: Program, damage: Any, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program.decode(damage(program.encode()))


def test_disassembly(program: Program, tmp_path: Any) -> None:
    lines = list(disassemble(program))
    assert len(lines) == len(program.instructions) + 1
    assert "MODEL+0x" in lines[1] and "wait" in "\n".join(lines)
    assert lines[-1].split()[1] == "END"
    file = tmp_path / "pass.bin"
    file.write_bytes(program.encode())
    result = CliRunner().invoke(cli, ["disassemble", str(file)])
    assert result.exit_code == 0
    assert [x.split("  ; ")[0] for x in result.output.splitlines()[1:]] == [
        x.split("  ; ")[0] for x in lines[1:]
    ]


def test_guidance_of_the_head(program: Program) -> None:
    head = [
        i.operands for i, n in zip(program.instructions, program.notes, strict=True)
        if n.what == "head" and i.opcode == Opcode.POST
    ]  # fmt: skip
    kinds = {(o["op"], o["scalar"]) for o in head}
    assert kinds == {(PostOp.STORE, 0xB800), (PostOp.ADD, 0x3E00)}  # -0.5 and 1.5


@pytest.mark.parametrize("tile", [16, 48, 352])
def test_rows_of_a_pass(tile: int) -> None:
    shape = TransformerShape.official("d16") if tile == 352 else ODD
    config = accelerator("vck190-fp4" if tile == 352 else "small-fp4", rows=tile)
    rows = place_rows(staggered(shape), shape, config, 10)
    assert rows.used == 2 * shape.tokens
    taken = [r for seq in rows.sequences for r in range(seq.first, seq.first + seq.tokens)]
    assert sorted(taken) == sorted(set(taken)) and max(taken) == rows.rows - 1
    assert rows.tiles == -(-rows.used // tile)
    for t in range(rows.tiles):
        own = rows.tile(t)
        inside = [
            r for _, part in rows.segments(t) for r in range(part.first, part.first + part.count)
        ]
        assert inside == list(range(own.first, own.first + own.count))
    if tile == 352:
        assert all(s.first // tile == (s.first + s.tokens - 1) // tile for s in rows.sequences)
    half = {(s.step, s.conditional): s.first for s in rows.sequences}
    assert all(half[k, False] < half[k, True] for k in range(len(shape.patch_nums)))


def test_tiles_of_outputs() -> None:
    assert split_outputs(5760, 4096) == [(0, 2816), (2816, 2944)]
    assert split_outputs(384, 512) == [(0, 384)]
    assert [n for _, n in split_outputs(1152, 512)] == [384, 384, 384]


@pytest.mark.parametrize(
    ("shape", "config", "message"),
    [
        (replace(DIGITS, width=640, heads=10), SMALL, "max_width 512"),
        (replace(DIGITS, heads=4), SMALL, "heads"),
        (replace(DIGITS, width=192, heads=3), SMALL, "multiple of 128"),
        (replace(DIGITS, patch_nums=(1, 16)), SMALL, "max_keys 256"),
    ],
)
def test_models_beyond_the_limits(shape: Any, config: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        ModelLayout.of(shape, config)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "at least one"),
        ([StepShape(0, 1, 0, 1), StepShape(0, 2, 0, 1)], "cache slot of its own"),
        ([StepShape(0, 1, 20, 16)], "30 tokens"),
        ([StepShape(0, 1, 0, 0)], "0 tokens"),
        ([StepShape(0, 1, 0, 1, True, 0.3)], "multiple of 1/128"),
        ([StepShape(0, 1, 0, 1, True, 15.0)], "guidance 15"),
        ([StepShape(-1, 1, 0, 1)], "slot -1"),
        ([StepShape(0, 77, 0, 1)], "class 77 is not in the packed model"),
    ],
)
def test_passes_that_cannot_be(steps: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compiler(DIGITS, SMALL).compile(steps)
