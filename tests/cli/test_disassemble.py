# SPDX-License-Identifier: Apache-2.0
"""`lutvar disassemble`: every instruction of a program, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lutvar.cli.errors import BAD_INPUT
from lutvar.cli.main import run


@pytest.fixture(scope="module")
def program() -> bytes:
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.contract.shape import TransformerShape
    from lutvar.host.compile.compiler import Compiler
    from lutvar.host.compile.model_layout import ModelLayout
    from lutvar.host.compile.steps import StepShape

    shape = TransformerShape(128, 1, 2, 512, 96, (1, 2))
    layout = ModelLayout.of(shape, load_accelerator("small-fp4"), labels=range(11))
    return Compiler(layout).compile([StepShape(0, 3, 1, 4, True, 1.5)]).program.encode()


def test_disassemble_prints_every_instruction(
    program: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pass.bin"
    file.write_bytes(program)
    assert run(["disassemble", str(file)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith(f"{len(lines)} instructions")
    assert len(lines) == len(program) // 64 - 1
    assert lines[-1].split() == [str(len(lines) - 1), "END", *lines[-1].split()[2:]]
    named = {line.split()[1] for line in lines}
    assert named == {"FETCH", "FRONT", "MATRIX", "POST", "ATTEND", "END"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda p: p[:-64], "cut or altered"),
        (lambda p: p[:-1], "instructions"),
        (lambda p: bytes([p[0] ^ 1]) + p[1:], "magic"),
        (lambda p: p[:64] + bytes([77]) + p[65:], "opcode 77"),
        (lambda p: p[:127] + bytes([0xFF]) + p[128:], "unused bits"),
    ],
    ids=["shortened", "torn", "magic", "opcode", "unused"],
)
def test_disassemble_refuses_what_is_no_program(
    change: Callable[[bytes], bytes], part: str, program: bytes, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "pass.bin"
    file.write_bytes(change(program))
    assert run(["disassemble", str(file)]) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert part in captured.err
    assert str(file) in captured.err
