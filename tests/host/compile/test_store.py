# SPDX-License-Identifier: Apache-2.0
"""Passes that serve every class and slot, and their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lutvar import sources
from lutvar.contract.isa import Opcode
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.pass_file import PAGE, default_folder, pass_key
from lutvar.host.compile.steps import StepShape
from lutvar.host.compile.store import PassStore
from lutvar.sources import PACKAGE
from support.host.compile_cases import DIGITS, ODD, accelerator, compiler, staggered

SMALL = accelerator()


def made(shape: object = ODD, config: object = SMALL) -> Compiler:
    return compiler(shape, config)  # type: ignore[arg-type]


def with_classes(
    steps: Sequence[StepShape], labels: Sequence[int], slots: Sequence[int]
) -> list[StepShape]:
    return [replace(s, label=a, slot=b) for s, a, b in zip(steps, labels, slots, strict=True)]


@pytest.mark.parametrize("shape", [DIGITS, ODD], ids=["digits", "odd"])
@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2, 3],
        [2, 5, 7, 9],
        [0, 1, 2, 10],  # 10 is the null class, which shares rows with the unconditional halves
        [10, 10, 10, 10],
        [3, 3, 3, 3],
        [4, 4, 6, 6],
        [1, 3, 1, 3],
    ],
    ids=str,
)
def test_a_program_with_classes_put_in_is_the_one_compiled_for_them(
    shape: object, labels: list[int]
) -> None:
    """Byte by byte, in any order of use, with the notes, waits, rows and addresses of its own."""
    direct, store = made(shape), PassStore(made(shape), check=True)
    steps = staggered(shape)  # type: ignore[arg-type]
    first = with_classes(steps, [8, 8, 9, 10], [3, 2, 1, 0])
    steps = with_classes(steps, labels, [5, 0, 3, 65])
    for wanted in (steps, first, steps):
        mine, right = store.get(wanted), direct.compile(wanted)
        assert mine.encode() == right.program.encode() == right.encode()
        assert mine.program == right.program and mine.program.notes == right.program.notes
        assert mine.instructions == right.instructions and mine.cycles == right.cycles
        assert mine.rows == right.rows and mine.plan == right.plan
    distinct = {tuple(s.label for s in first), tuple(labels)}
    assert store.compiled <= len(distinct)


@pytest.mark.parametrize("shape", [DIGITS, ODD], ids=["digits", "odd"])
def test_a_program_with_guidance_put_in_is_the_one_compiled_for_it(
    shape: object, tmp_path: Path
) -> None:
    """Byte by byte, with steps of other strengths and without guidance beside each other."""
    direct = made(shape)
    stores = PassStore(made(shape), tmp_path), PassStore(made(shape), tmp_path)
    steps = staggered(shape)  # type: ignore[arg-type]
    unguided = [True, False, True, True][: len(steps)]
    strengths = ([0.0] * 4, [0.5, 7.0, 1 / 128, 14.9921875], [3.0, 0.0, 0.0, 1.0])
    codes = set()
    for strength in (*strengths, strengths[1]):
        wanted = [
            replace(s, guidance=t, guided=g)
            for s, t, g in zip(steps, strength, unguided, strict=True)
        ]
        right = direct.compile(wanted)
        for store in stores:
            mine = store.get(wanted)
            assert mine.encode() == right.program.encode()
            assert mine.program == right.program and mine.rows == right.rows
        codes.add(right.program.encode())
    assert len(codes) == 3, "guidance is in the program"
    assert [(s.compiled, s.loaded) for s in stores] == [(1, 0), (0, 1)], "one file for all"


def test_one_program_for_all_classes() -> None:
    store = PassStore(made())
    steps = staggered(ODD)[:2]
    codes = set()
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels = rng.choice(10, 2, replace=False).tolist()
        slots = rng.choice(100, 2, replace=False).tolist()
        codes.add(store.get(with_classes(steps, labels, slots)).encode())
    assert store.compiled == 1 and len(codes) > 10


def test_classes_out_of_order_give_a_program_that_is_right_too() -> None:
    """Rows of classes lie in order of appearance; a compiler alone would sort them."""
    store = PassStore(made(), check=True)
    n = ODD.scale_tokens
    program = store.get([StepShape(i, 9 - i, n[0], n[1]) for i in range(3)]).program
    front = [i for i in program.instructions if i.opcode == Opcode.FRONT and i.operands["norm"]]
    assert len({item.operands["scale"] for item in front}) > 3


def test_what_cannot_be_compiled() -> None:
    store = PassStore(made())
    one = StepShape(0, 3, 0, 1)
    with pytest.raises(CompileError, match="cache slot"):
        store.get([one, one])
    with pytest.raises(CompileError, match="class 11 is not in the packed model"):
        store.get([replace(one, label=11)])
    with pytest.raises(CompileError, match="slot 65536"):
        store.get([replace(one, slot=1 << 16)])
    with pytest.raises(CompileError, match="at least one"):
        store.get([])
    for strength in (15.0, -0.5, 1 / 256):
        with pytest.raises(CompileError, match=f"image step 0: guidance {strength}; it must be"):
            store.get([replace(one, guidance=strength)])


def test_a_second_process_maps_the_file(tmp_path: Path) -> None:
    steps = staggered(ODD)
    first, second = (PassStore(made(), tmp_path / "passes", check=True) for _ in range(2))
    a = first.get(steps)
    changed = with_classes(steps, [6, 5, 4, 3], [9, 8, 7, 6])
    b = second.get(changed)
    assert (first.compiled, first.loaded, second.compiled, second.loaded) == (1, 0, 0, 1)
    assert b.encode() == first.get(changed).encode()
    assert second.get(steps).encode() == a.encode() and second.get(steps).program == a.program
    third = PassStore(made(), tmp_path / "passes")
    assert third.get(steps).encode() == a.encode(), "what was put in went into the file"


def damage_cut(raw: bytes) -> bytes:
    return raw[:-4]


def damage_flip(raw: bytes) -> bytes:
    return raw[: PAGE + 100] + bytes([raw[PAGE + 100] ^ 1]) + raw[PAGE + 101 :]


def damage_note(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def damage_key(raw: bytes) -> bytes:
    head = json.loads(raw[:PAGE])
    return json.dumps({**head, "key": "0" * 64}).encode().ljust(PAGE) + raw[PAGE:]


def damage_format(raw: bytes) -> bytes:
    return raw.replace(b"lutvar-pass-2", b"lutvar-pass-1")


def damage_type(raw: bytes) -> bytes:
    return json.dumps([1, 2]).encode().ljust(PAGE) + raw[PAGE:]


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut, damage_flip, damage_note, damage_key, damage_format, damage_type,
        lambda raw: b"", lambda raw: b"\xff" * len(raw), lambda raw: raw + b"\0" * 64,
    ],
    ids=["cut", "flip", "note", "key", "format", "type", "empty", "foreign", "longer"],
)  # fmt: skip
def test_a_bad_file_is_compiled_again(tmp_path: Path, damage: object) -> None:
    steps = staggered(DIGITS)[:2]
    good = PassStore(made(DIGITS), tmp_path).get(steps).encode()
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    path.write_bytes(damage(raw))  # type: ignore[operator]
    store = PassStore(made(DIGITS), tmp_path)
    assert store.get(steps).encode() == good
    assert (store.compiled, store.loaded) == (1, 0)
    assert path.read_bytes() == raw, "not mended"


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = PassStore(made(DIGITS), blocked / "passes")
    assert store.get(staggered(DIGITS)[:1]).instructions and store.compiled == 1


def test_everything_that_matters_is_in_the_key() -> None:
    steps = staggered(DIGITS)[:1]
    base = compiler(DIGITS, SMALL)
    keys = {pass_key(base, steps), pass_key(base, [replace(steps[0], guidance=1.0)])}
    layout = base.layout
    e = [1, *base.exponents[1:]]
    keys |= {
        pass_key(one, steps)
        for one in (
            compiler(ODD, SMALL), compiler(DIGITS, accelerator(queue=2)),
            compiler(DIGITS, accelerator("small-fp6")), Compiler(layout, e),
            Compiler(layout, epsilon=1e-5), Compiler(layout, null_label=3),
            Compiler(layout, model_hash=1),
            Compiler(layout, times=replace(base.costs.times, memory=99)),
        )
    }  # fmt: skip
    assert len(keys) == 10
    assert pass_key(compiler(DIGITS, SMALL), steps) in keys


@pytest.mark.parametrize(
    "changed", ["contract/memory.py", "contract/terms.py", "host/compile/emit.py"]
)
def test_other_code_makes_another_key(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of another compiler, contract or version are not taken for this one's."""
    steps, one = staggered(DIGITS)[:1], compiler(DIGITS, SMALL)
    before = pass_key(one, steps)
    for folder in ("contract", "host/compile"):
        shutil.copytree(PACKAGE / folder, tmp_path / folder)
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    sources.sources_hash.cache_clear()
    try:
        assert pass_key(one, steps) == before
        with (tmp_path / changed).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        sources.sources_hash.cache_clear()
        assert pass_key(one, steps) != before
    finally:
        sources.sources_hash.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr("lutvar.__version__", "0.0.0")
    assert pass_key(one, steps) != before


def test_old_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lutvar.host.compile.pass_file.FOLDER_BYTES", 1)
    store = PassStore(made(DIGITS), tmp_path)
    for step in staggered(DIGITS)[:2]:
        assert store.get([step]).encode()
    assert not list(tmp_path.glob("*.pass")) and store.compiled == 2


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTVAR_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "passes"
    monkeypatch.setenv("LUTVAR_CACHE", "")
    assert default_folder() is None
    monkeypatch.delenv("LUTVAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lutvar" / "passes"
