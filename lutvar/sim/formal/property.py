# SPDX-License-Identifier: Apache-2.0
"""What a property is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .harness import Check


@dataclass(frozen=True)
class Mutant:
    """A small fault that the property has to find.

    Attributes:
        name: unique within the property.
        module: Python module of the gateware whose text is changed.
        old: text that occurs once in it.
        new: what stands there instead.
    """

    name: str
    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Property:
    """Something that is proved about a module.

    Attributes:
        name: as on the command line: `group.what`, with the size where there are several.
        module: what it is about, for tables.
        statement: what holds, in one sentence.
        make: builds the module that is exported.
        check: environment and requirements.
        depth: cycles of induction; 0: PDR finds the invariant.
        mutants: faults that break it. Properties that differ in size alone share those of one size.
        seconds: time limit.
        whole: name of an accelerator whose `parallel_case` statements the property is about; then
            `make` and `check` have no part in it.
    """

    name: str
    module: str
    statement: str
    make: Callable[[], Any]
    check: Callable[[Check[Any]], None] | None
    depth: int = 1
    mutants: tuple[Mutant, ...] = ()
    seconds: float = 300.0
    whole: str = ""
