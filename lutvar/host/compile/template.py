# SPDX-License-Identifier: Apache-2.0
"""Programs that serve every class and every cache slot.

Classes and slots enter a program in two ways. Which steps have equal classes decides which rows
share instructions; that is part of the pass's `pattern`. Where a class's vectors and a slot's
records lie is in address fields only: the template has a list of them, and `set` puts other
addresses there, a few numpy operations for a pass. So a pass is compiled once for all classes.
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
    OperandField,
    Region,
    address,
)

from .encode import Words, get_field, rows_of, set_field
from .errors import CompileError
from .model_layout import ModelLayout
from .steps import StepShape, check_slots


@dataclass(frozen=True)
class Pattern:
    """A pass without its classes and slots.

    Attributes:
        steps: the same steps with stand-ins: the first packed classes in order of appearance, and
            slots 0, 1, ... The null class stands for itself, for it may share rows with the
            unconditional halves.
        labels: the class that each stand-in stands for, by stand-in; the null class included.
        slots: the slot of each step.
    """

    steps: tuple[StepShape, ...]
    labels: dict[int, int]
    slots: tuple[int, ...]

    @classmethod
    def of(cls, steps: Sequence[StepShape], layout: ModelLayout, null_label: int) -> Pattern:
        """Raises CompileError for a class that is not packed, or slots that are not distinct."""
        check_slots(steps)
        known = sorted(label for label in layout.labels if label != null_label)
        stands: dict[int, int] = {null_label: null_label}
        for step in steps:
            layout.class_offset(step.label)
            if step.label not in stands:
                stands[step.label] = known[len(stands) - 1]
        plain = tuple(
            replace(step, slot=i, label=stands[step.label]) for i, step in enumerate(steps)
        )
        return cls(plain, {v: k for k, v in stands.items()}, tuple(step.slot for step in steps))


#: A class's vectors ("label") or a slot's records ("slot"), by stand-in.
_Owner = tuple[str, int]


@dataclass(frozen=True, eq=False)
class PassTemplate:
    """An encoded program and where its classes and slots are; it holds those set last.

    Attributes:
        words: header and instructions, uint64 [n + 1, 8], in stand-ins as compiled; `set` changes
            them.
        layout: where the classes' vectors lie.
        labels: stand-ins that it may have.
        slot_bytes: of the cache; slots as many as steps.
        slots: number of slots.
    """

    words: Words
    layout: ModelLayout
    labels: tuple[int, ...]
    slot_bytes: int
    slots: int

    def __post_init__(self) -> None:
        self._places  # noqa: B018  (found while the words still have the stand-ins)

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
                    size = self.layout.class_stride if owner[0] == "label" else self.slot_bytes
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
        for slot in range(self.slots):
            current["slot", slot] = self._start(("slot", slot))
        return current

    def _start(self, owner: _Owner) -> int:
        kind, number = owner
        if kind == "label":
            return address(Region.MODEL, self.layout.class_offset(number))
        if (number + 1) * self.slot_bytes > 1 << OFFSET_BITS:
            raise CompileError(
                f"slot {number}: its {self.slot_bytes:,} bytes end beyond 2**{OFFSET_BITS}; use "
                "lower slots"
            )
        return address(Region.CACHE, number * self.slot_bytes)

    def set(self, pattern: Pattern) -> None:
        """Put a pattern's classes and slots into the program; what is there already stays."""
        wanted = {("label", stand): label for stand, label in pattern.labels.items()}
        wanted |= {("slot", stand): slot for stand, slot in enumerate(pattern.slots)}
        for owner, number in wanted.items():
            start = self._start((owner[0], number))
            if start == self._current[owner]:
                continue
            for field, rows, rest in self._places.get(owner, ()):
                set_field(self.words, rows, field, rest + np.uint64(start))
            self._current[owner] = start

    @property
    def places(self) -> int:
        """Address fields that depend on classes or slots."""
        return sum(len(rows) for part in self._places.values() for _, rows, _ in part)

    def encoded(self) -> NDArray[np.uint8]:
        """The program as it lies in memory, valid until the next `set`."""
        return self.words.view(np.uint8).reshape(-1)
