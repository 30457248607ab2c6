# SPDX-License-Identifier: Apache-2.0
"""Gateware with a fault in it, for as long as a `with` block lasts."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .property import Mutant


class MutantError(ValueError):
    """A mutant no longer fits the gateware."""


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Run a module's changed text in its place, for everybody in the package who imported from it.

    Raises MutantError unless the text to change is there exactly once.
    """
    module = importlib.import_module(mutant.module)
    text = inspect.getsource(module)
    if (count := text.count(mutant.old)) != 1:
        raise MutantError(
            f"mutant {mutant.name}: {mutant.old!r} occurs {count} times in {mutant.module}; it "
            "must occur once: adapt the mutant to the gateware"
        )
    before = dict(vars(module))
    # Without this module's own future statements.
    code = compile(
        text.replace(mutant.old, mutant.new), module.__file__ or "", "exec", dont_inherit=True
    )
    exec(code, vars(module))
    # What other modules imported by name.
    places: list[tuple[dict[str, Any], str, Any]] = []
    for name, other in list(sys.modules.items()):
        if not name.startswith("lutvar.") or other is module:
            continue
        space = vars(other)
        for key, value in list(space.items()):
            if key in before and value is before[key] and not key.startswith("__"):
                places.append((space, key, value))
                space[key] = vars(module)[key]
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)
        for space, key, value in places:
            space[key] = value
