# SPDX-License-Identifier: Apache-2.0
"""Compiled programs whose weights do not fit: the driver names the instruction, nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lutvar.contract.isa import Instruction, Opcode, readings
from lutvar.contract.register_map import DeviceError
from lutvar.host import AcceleratorError
from support.sim.small_pass import Small

pytestmark = pytest.mark.verilator


def _user_of(items: Sequence[Instruction], fetch: int) -> int:
    """Index of the MATRIX instruction that takes a FETCH's first panel, on one weight port."""
    left = sum(max(0, readings(item, 1)[0]) for item in items[:fetch])
    for index, item in enumerate(items):
        left += min(0, readings(item, 1)[0])
        if left < 0:
            return index
    raise AssertionError("no MATRIX takes it")


@pytest.mark.parametrize("place", [0, 7, -1])
def test_weights_that_do_not_fit(small: Small, place: int) -> None:
    """FETCH with other beats, panels or readings: told for what it is, never as a program that
    has finished or hangs; what comes next is right."""
    program = small.compiled.program
    items = program.instructions
    at = [i for i, item in enumerate(items) if item.opcode == Opcode.FETCH][place]
    fetch = items[at]
    beats, panels, repeat = (fetch.operands[n] for n in ("beats", "panels", "repeat"))
    # The last panel ends its region: a longer one has to begin before it.
    start = fetch.operands["address"] - (3 * 64 * beats if place == -1 else 0)

    def fails(*changes: dict[str, int]) -> AcceleratorError:
        """In place of the FETCH, one for each of `changes`."""
        wrong = [
            replace(fetch, operands={**fetch.operands, "address": start, **c}) for c in changes
        ]
        others = (*items[:at], *wrong, *items[at + 1 :])
        return small.fails(replace(program, instructions=others, notes=()).encode())

    user = _user_of(items, at)
    for more, code in (
        (1, DeviceError.WEIGHTS_SURPLUS), (2, DeviceError.WEIGHTS_SURPLUS),
        (-1, DeviceError.WEIGHTS_MISSING),
    ):  # fmt: skip
        error = fails({"beats": beats + more})
        assert (error.code, error.snapshot.error_info) == (code, user), (more, str(error))
        assert f"than instruction {user} (MATRIX) needs" in str(error)
    # Panels out of step are found by their number or, where lengths differ, by their beats.
    changes: list[list[dict[str, int]]] = [
        [{"panels": panels + 1}],
        [{"repeat": 3 - repeat}],
        [{}, {}],
        [],
    ]
    if panels > 1:
        changes.append([{"panels": panels - 1}])
    for wrong in changes:
        error = fails(*wrong)
        name = DeviceError(error.code).name
        assert name.startswith("WEIGHTS_") or "rule WEIGHTS" in str(error), (wrong, str(error))
    small.right()
