# SPDX-License-Identifier: Apache-2.0
"""Compiled passes of one model: each is compiled once for all classes, slots and strengths of
guidance, and kept.

store = PassStore(compiler, default_folder())
compiled = store.get([StepShape.of(step) for step in steps])
compiled.encode()

In memory they are kept as long as the store, on disk for other processes (`pass_file`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .check import check_program
from .compiler import CompiledPass, Compiler
from .memory_plan import MemoryPlan
from .pass_file import PassCode, load_pass, pass_key, save_pass
from .program import Program
from .steps import PassRows, StepShape
from .template import PassTemplate, Pattern

#: Passes with classes, slots and guidance that are remembered; one is a few small objects.
_REMEMBERED = 4096


@dataclass(frozen=True, eq=False)
class _Kept:
    """A pass without classes, slots and guidance; its template is for one thread at a time."""

    template: PassTemplate
    code: PassCode
    rows: PassRows
    lock: threading.Lock = field(default_factory=threading.Lock)


class StoredPass(CompiledPass):
    """A pass of a store with its classes, slots and guidance; makes its program when asked."""

    def __init__(self, kept: _Kept, pattern: Pattern, steps: Sequence[StepShape]) -> None:
        rows = _named(kept.rows, pattern, steps)
        super().__init__(
            rows, MemoryPlan(kept.template.layout.shape, rows), kept.code.cycles, self._decode
        )
        self._kept, self._pattern = kept, pattern

    @property
    def instructions(self) -> int:
        """Instructions of the program, END included."""
        return len(self._kept.template.words) - 1

    def encode(self) -> bytes:
        """The program as it lies in memory."""
        with self._kept.lock:
            self._kept.template.set(self._pattern)
            return self._kept.template.words.tobytes()

    def _decode(self) -> Program:
        with self._kept.lock:
            self._kept.template.set(self._pattern)
            return self._kept.code.program()


class PassStore:
    """Passes by their steps; threads may share a store.

    Args:
        compiler: of the model.
        folder: of the files; None: none.
        check: prove the order of every program (slow for large models).

    Attributes:
        compiled, loaded: passes that were compiled here, and that came from files.
    """

    def __init__(
        self, compiler: Compiler, folder: Path | None = None, *, check: bool = False
    ) -> None:
        self.compiler, self.folder, self._check = compiler, folder, check
        self.compiled = self.loaded = 0
        self._kept: dict[tuple[StepShape, ...], _Kept] = {}
        self._passes: dict[tuple[StepShape, ...], StoredPass] = {}
        self._lock = threading.Lock()

    def get(self, steps: Sequence[StepShape]) -> CompiledPass:
        """The pass of some steps.

        Raises:
            CompileError: steps that the accelerator or the model cannot run.
            OrderError: with `check`; a defect of the compiler.
        """
        key = tuple(steps)
        with self._lock:  # whoever needs a pass that is being compiled waits for it
            return self._get(key)

    def _get(self, key: tuple[StepShape, ...]) -> CompiledPass:
        if key in self._passes:
            return self._passes[key]
        pattern = Pattern.of(key, self.compiler.layout, self.compiler.null_label)
        if pattern.steps not in self._kept:
            self._kept[pattern.steps] = self._make(pattern)
        made = StoredPass(self._kept[pattern.steps], pattern, key)
        if len(self._passes) >= _REMEMBERED:
            self._passes.clear()
        self._passes[key] = made
        return made

    def _make(self, pattern: Pattern) -> _Kept:
        """Load a pass, or compile it and write its file."""
        compiler, layout = self.compiler, self.compiler.layout
        key = "" if self.folder is None else pass_key(compiler, pattern.steps)
        code = None if self.folder is None else load_pass(self.folder, key)
        if code is not None:
            self.loaded += 1
            if self._check:
                check_program(code.program(), layout.config)
        else:
            tiling = compiler.tiling(pattern.steps)
            made = compiler.compile(pattern.steps, check=self._check, tiling=tiling)
            code = PassCode.of(made.program, made.cycles, tiling)
            self.compiled += 1
            if self.folder is not None:
                save_pass(self.folder, key, code)
        rows = compiler.place(pattern.steps, code.tiling)
        plan = MemoryPlan(layout.shape, rows)
        template = PassTemplate(code.words, layout, tuple(pattern.labels), plan)
        return _Kept(template, code, rows)


def _named(rows: PassRows, pattern: Pattern, steps: Sequence[StepShape]) -> PassRows:
    """Rows with classes, slots and guidance instead of stand-ins."""
    sequences = tuple(
        replace(
            seq,
            label=pattern.labels[seq.label],
            slot=steps[seq.step].slot,
            scalar=steps[seq.step].scalar(seq.conditional),
        )
        for seq in rows.sequences
    )
    return replace(rows, steps=tuple(steps), sequences=sequences)
