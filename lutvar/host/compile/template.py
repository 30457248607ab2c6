# SPDX-License-Identifier: Apache-2.0
"""Programs that serve every class, every cache slot and every strength of guidance.

Classes and slots enter a program in two ways. Which steps have equal classes decides which rows
share instructions; that is part of the pass's `pattern`. Where a class's vectors and a slot's
records lie is in address fields only: the template has a list of them, and `set` puts other
addresses there, a few numpy operations for a pass. So a pass is compiled once for all classes.

Guidance is the factor of the POST instructions that write logits: 1 + t for the conditional half,
-t for the other one. `set` puts these there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import (
    OFFSET_BITS,
    PAYLOAD_FIELDS,
    Opcode,
    OperandField,
    PostOp,
    Region,
    address,
)

from .encode import Words, get_field, rows_of, set_field
from .errors import CompileError
from .memory_plan import MemoryPlan
from .model_layout import ModelLayout
from .steps import StepShape, check_guidance, check_slots


@dataclass(frozen=True)
class Pattern:
    """A pass without its classes, slots and strengths of guidance.

    Attributes:
        steps: the same steps with stand-ins: the first packed classes in order of appearance,
            slots 0, 1, ..., and guidance 0. The null class stands for itself, for it may share rows
            with the unconditional halves.
        labels: the class that each stand-in stands for, by stand-in; the null class included.
        wanted: the steps as they were.
    """

    steps: tuple[StepShape, ...]
    labels: dict[int, int]
    wanted: tuple[StepShape, ...]

    @classmethod
    def of(cls, steps: Sequence[StepShape], layout: ModelLayout, null_label: int) -> Pattern:
        """Raises CompileError for an unpacked class, equal slots, or a strength out of range."""
        check_slots(steps)
        known = [x for x in layout.sorted_labels[: len(steps) + 1] if x != null_label]
        stands: dict[int, int] = {null_label: null_label}
        for i, step in enumerate(steps):
            check_guidance(i, step)
            layout.class_offset(step.label)
            if step.label not in stands:
                stands[step.label] = known[len(stands) - 1]
        plain = tuple(
            replace(step, slot=i, label=stands[step.label], guidance=0.0)
            for i, step in enumerate(steps)
        )
        return cls(plain, {v: k for k, v in stands.items()}, tuple(steps))


_POST = {field.name: field for field in PAYLOAD_FIELDS[Opcode.POST]}
#: A class's vectors ("label") or a slot's records ("slot"), by stand-in.
_Owner = tuple[str, int]


@dataclass(frozen=True, eq=False)
class PassTemplate:
    """An encoded program and where classes, slots and guidance are; it holds those set last.

    Attributes:
        words: header and instructions, uint64 [n + 1, 8], in stand-ins as compiled; `set` changes
            them.
        layout: where the classes' vectors lie.
        labels: stand-ins that it may have.
        plan: where slots and logits lie; its steps are the stand-ins.
    """

    words: Words
    layout: ModelLayout
    labels: tuple[int, ...]
    plan: MemoryPlan

    def __post_init__(self) -> None:
        self._places, self._scalars  # noqa: B018  (found while the words have the stand-ins)

    @cached_property
    def _places(self) -> dict[_Owner, list[tuple[OperandField, NDArray[np.int64], Words]]]:
        """For each owner: field, rows, and addresses less the start of what the owner has."""
        places: dict[_Owner, list[tuple[OperandField, NDArray[np.int64], Words]]] = {}
        for opcode, fields in PAYLOAD_FIELDS.items():
            rows = rows_of(self.words[1:], opcode) + 1  # behind the header
            for field in fields:
                if field.kind != "address" or not len(rows):
                    continue
                values = get_field(self.words, rows, field)
                for owner, start in self._current.items():
                    size = self.layout.class_stride if owner[0] == "label" else self.plan.slot_bytes
                    mine = (values >= start) & (values < start + size)
                    if mine.any():
                        rest = values[mine] - np.uint64(start)
                        places.setdefault(owner, []).append((field, rows[mine], rest))
        return places

    @cached_property
    def _current(self) -> dict[_Owner, int]:
        """The address that each owner has now."""
        current: dict[_Owner, int] = {}
        for label in self.labels:
            current["label", label] = self._start(("label", label))
        for slot in range(len(self.plan.rows.steps)):
            current["slot", slot] = self._start(("slot", slot))
        return current

    def _start(self, owner: _Owner) -> int:
        kind, number = owner
        if kind == "label":
            return address(Region.MODEL, self.layout.class_offset(number))
        size = self.plan.slot_bytes
        if (number + 1) * size > 1 << OFFSET_BITS:
            raise CompileError(
                f"slot {number}: its {size:,} bytes end beyond 2**{OFFSET_BITS}; use lower slots"
            )
        return address(Region.CACHE, number * size)

    @cached_property
    def _scalars(self) -> dict[tuple[int, bool], NDArray[np.int64]]:
        """Rows of the instructions that write logits, for each (guided step, conditional half)."""
        rows = rows_of(self.words[1:], Opcode.POST) + 1
        output, op = (get_field(self.words, rows, _POST[name]) for name in ("output", "op"))
        found = {}
        for i, step in enumerate(self.plan.rows.steps):
            if step.guided:
                mine = (output >= self.plan.logits(i, 0)) & (output < self.plan.logits(i + 1, 0))
                for conditional, kind in ((False, PostOp.STORE), (True, PostOp.ADD)):
                    found[i, conditional] = rows[mine & (op == int(kind))]
        return found

    def set(self, pattern: Pattern) -> None:
        """Put a pattern's classes, slots and guidance into the program."""
        wanted = {("label", stand): label for stand, label in pattern.labels.items()}
        wanted |= {("slot", stand): step.slot for stand, step in enumerate(pattern.wanted)}
        for owner, number in wanted.items():
            start = self._start((owner[0], number))
            if start == self._current[owner]:
                continue
            for field, rows, rest in self._places.get(owner, ()):
                set_field(self.words, rows, field, rest + np.uint64(start))
            self._current[owner] = start
        for (index, conditional), rows in self._scalars.items():
            scalar = pattern.wanted[index].scalar(conditional)
            set_field(self.words, rows, _POST["scalar"], np.full(len(rows), scalar, np.uint64))

    @property
    def places(self) -> int:
        """Fields that depend on classes, slots or guidance."""
        addresses = sum(len(rows) for part in self._places.values() for _, rows, _ in part)
        return addresses + sum(len(rows) for rows in self._scalars.values())

    def encoded(self) -> NDArray[np.uint8]:
        """The program as it lies in memory, valid until the next `set`."""
        return self.words.view(np.uint8).reshape(-1)
