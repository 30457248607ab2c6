# SPDX-License-Identifier: Apache-2.0
"""Compiled passes in files: what a process compiled, the next one maps.

A file is a page of JSON (format, key, sizes, SHA-256 of the rest), then the program as it lies in
the device's memory, then the instructions' notes. Its name is its key: a hash of everything that
the program depends on, the source of compiler and contract included. A file that is cut, altered,
foreign or of another key counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lutvar
from lutvar.contract.isa import INSTRUCTION_BYTES
from lutvar.files import OutputError, cache_folder, json_text, make_folder, write_file
from lutvar.sources import sources_hash

from .compiler import Compiler
from .encode import WORDS, Words
from .program import Note, Program, accelerator_hash
from .steps import StepShape, Tiling

FORMAT = "lutvar-pass-2"
PAGE = 4096
#: Files of a folder beyond this are removed, those that were used longest ago first.
FOLDER_BYTES = 512 << 20
#: Folders whose code decides what a program is beside its inputs.
_SOURCES = ("contract", "host/compile")
#: What a note says an instruction is for.
_WHAT = ("qkv", "proj", "fc1", "fc2", "head", "attention", "end")
#: Columns of the notes: tile, block, what, first, rows.
_NOTE = len(Note._fields)


@dataclass(frozen=True, eq=False)
class PassCode:
    """A compiled program without its objects.

    Attributes:
        words: header and instructions, uint64 [n + 1, 8]; writable, but not the file.
        notes: int32 [n, 5], see `Note`.
        cycles: end in the scheduler's model.
        tiling: how the pass is cut into tiles.
    """

    words: Words
    notes: NDArray[np.int32]
    cycles: int
    tiling: Tiling

    @classmethod
    def of(cls, program: Program, cycles: int, tiling: Tiling) -> PassCode:
        """The code of a compiled program."""
        words = np.frombuffer(bytearray(program.encode()), np.uint64).reshape(-1, WORDS)
        numbers = {what: i for i, what in enumerate(_WHAT)}
        notes = [(n.tile, n.block, numbers[n.what], n.first, n.rows) for n in program.notes]
        return cls(words, np.array(notes, np.int32).reshape(-1, _NOTE), cycles, tiling)

    def program(self) -> Program:
        """The objects again, with the waits that count exactly."""
        program = Program.decode(self.words.tobytes()).exact()
        notes = tuple(Note(a, b, _WHAT[c], d, e) for a, b, c, d, e in self.notes.tolist())
        return replace(program, notes=notes)


def default_folder() -> Path | None:
    """Where passes are kept; None: nowhere."""
    return cache_folder("passes")


def pass_key(compiler: Compiler, steps: Sequence[StepShape]) -> str:
    """Hash of everything that a program depends on."""
    layout = compiler.layout
    inputs = {
        "format": FORMAT,
        "lutvar": lutvar.__version__,
        "code": sources_hash(*_SOURCES),
        "accelerator": f"{accelerator_hash(layout.config):016x}",
        "sizes": layout.config.model_dump(mode="json"),
        "shape": asdict(layout.shape),
        "labels": layout.labels,
        "exponents": compiler.exponents,
        "terms": layout.terms,
        "epsilon": float(compiler.epsilon).hex(),
        "null_label": compiler.null_label,
        "model": f"{compiler.model_hash:016x}",
        "times": asdict(compiler.costs.times),
        "tiles": [compiler.tile_rows, compiler.max_sections],
        "steps": [asdict(step) for step in steps],
    }
    return hashlib.sha256(json_text(inputs, sort_keys=True).encode()).hexdigest()


def load_pass(folder: Path, key: str) -> PassCode | None:
    """A pass from its file, mapped so that changes stay in this process; None: no good file."""
    path = folder / f"{key}.pass"
    try:
        raw = np.memmap(path, np.uint8, "c")
        head = json.loads(bytes(raw[:PAGE]).rstrip(b"\0 \n"))
        count, cycles = int(head["instructions"]), int(head["cycles"])
        rows, sections, apart = head["tiling"]
        tiling = Tiling(int(rows), int(sections), bool(apart))
        size = (count + 1) * INSTRUCTION_BYTES
        if head["format"] != FORMAT or head["key"] != key or count < 1 or cycles < 0:
            return None
        if raw.size != PAGE + size + 4 * _NOTE * count:
            return None
        if head["sha256"] != hashlib.sha256(raw[PAGE:].data).hexdigest():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    words = raw[PAGE : PAGE + size].view(np.uint64).reshape(-1, WORDS)
    notes = raw[PAGE + size :].view(np.int32).reshape(-1, _NOTE)
    return PassCode(words, notes, cycles, tiling)


def save_pass(folder: Path, key: str, code: PassCode) -> bool:
    """Write a pass for the next process; False where that cannot be: a cache is no duty."""
    body = code.words.tobytes() + code.notes.tobytes()
    head = {
        "format": FORMAT, "key": key, "instructions": len(code.words) - 1, "cycles": code.cycles,
        "tiling": astuple(code.tiling), "sha256": hashlib.sha256(body).hexdigest(),
    }  # fmt: skip
    try:
        make_folder(folder)
        write_file(folder / f"{key}.pass", json_text(head).encode().ljust(PAGE) + body)
        _tidy(folder)
    except (OSError, OutputError):
        return False
    return True


def _tidy(folder: Path) -> None:
    """Keep a folder below its size."""
    files = []
    for path in folder.glob("*.pass"):
        with contextlib.suppress(OSError):  # another process tidies too
            state = path.stat()
            files.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= FOLDER_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
