# SPDX-License-Identifier: Apache-2.0
"""Checks of addresses: transfers across the edges of windows, programs there, all address bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from lutvar.contract.isa import (
    ALIGN,
    INSTRUCTION_BYTES,
    OFFSET_BITS,
    PAYLOAD_FIELDS,
    Opcode,
    PostOp,
    Region,
    address,
    decode,
    split_address,
)
from lutvar.contract.register_map import DeviceError
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.contents import HIGH_BASES, PROGRAM_OFFSET, SIZES, Bases
from lutvar.sim.fuzz.malformed import bytes_of, get, put, words_of
from lutvar.sim.fuzz.meaning import has_meaning
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.rules import stray

from .common import run_steps

#: Addresses that instructions write to.
_WRITTEN = {opcode: ("output",) if opcode is Opcode.ATTEND else () for opcode in Opcode} | {
    Opcode.POST: ("output", "keys", "values")
}
_Run = Callable[[Bench, Oracle], str]


def _edges(region: Region, bases: Bases) -> list[int]:
    """Offsets in a region whose lines lie just outside a window, or are the last one inside."""
    below = [base - ALIGN - bases[region] for base in bases.values()]
    return [SIZES[region] - ALIGN, SIZES[region], *(n for n in below if 0 < n < 1 << OFFSET_BITS)]


def transfers_outside(step: Step, elsewhere: bool = False) -> _Run:
    """Transfers across the edges of windows are told with their start, and do not happen.

    elsewhere: each address in each other region, too: nonsense, but inside.
    """

    def run(bench: Bench, oracle: Oracle) -> str:
        words, bases = words_of(step.program), bench.bases
        for at, word in enumerate(words[1:], 1):
            item = decode(word.to_bytes(INSTRUCTION_BYTES, "little"), at - 1)
            for field in PAYLOAD_FIELDS[item.opcode]:
                if field.kind != "address" or not has_meaning(item, field.name):
                    continue
                region, _ = split_address(get(word, field))
                places = [(region, offset) for offset in _edges(region, bases)]
                if elsewhere:
                    places += [(other, ALIGN) for other in Region if other != region]
                for place, offset in places:
                    new = list(words)
                    new[at] = put(word, field, address(place, offset))
                    other = replace(step, program=bytes_of(new), right=False)
                    if place == region and stray(bench.config, new) is None:
                        continue
                    outcome = bench.run(other)
                    if (deviation := oracle.judge(other, outcome, at)) is not None:
                        return f"{deviation.kind}: {deviation.what}"
                    if place != region:
                        continue
                    name = DeviceError(outcome.error).name
                    if not name.startswith("OUTSIDE_"):
                        return f"{item.opcode.name}.{field.name} outside ends with {name}"
                    writes = field.name in _WRITTEN[item.opcode] and not (
                        field.name == "keys" and item.operands["op"] == PostOp.NORM  # its shift
                    )
                    if outcome.info != writes:
                        return f"{name} for {item.opcode.name}.{field.name}: info {outcome.info}"
                    told = outcome.address
                    inside = any(bases[r] <= told < bases[r] + SIZES[r] for r in Region)
                    if inside and told != bases[region] + offset:
                        return f"{name} tells {told:#x}"
        return run_steps(bench, oracle, [step])

    return run


def program_outside(step: Step) -> _Run:
    """A program that leaves its window ends with OUTSIDE_PROG and the transfer's start.

    One that ends where the window does is right.
    """
    size = len(step.program)

    def run(bench: Bench, oracle: Oracle) -> str:
        bottom, end = bench.bases[Region.IO], bench.bases[Region.IO] + SIZES[Region.IO]
        first = bottom + PROGRAM_OFFSET
        for start, told in (
            (end, end),
            (bottom - ALIGN, bottom - ALIGN),
            (end - ALIGN, end),  # the header is inside
            (end - size + ALIGN, end - size + 2 * ALIGN),  # all but the last instruction are
            (end - size, None),
            (first, None),
        ):
            bench.point(start)
            lead = bytes(max(0, start - first) if start < end else 0)
            moved = replace(step, program=(lead + step.program)[: end - first])
            outcome = bench.run(moved)
            if told is None:
                if outcome.error or outcome.problems or not outcome.done:
                    return f"a program at {start:#x} ends with error {outcome.error}"
                expected = oracle.expected(step).memory
                if any((outcome.memory[r] != expected[r]).any() for r in Region if r != Region.IO):
                    return f"a program at {start:#x} has computed something else"
                continue
            if outcome.problems or outcome.guard or outcome.stuck:
                return f"a program at {start:#x}: {'; '.join(outcome.problems) or 'guard'}"
            if (outcome.error, outcome.info, outcome.address) != (
                DeviceError.OUTSIDE_PROG, 0, told
            ):  # fmt: skip
                return (
                    f"a program at {start:#x} ends with error {outcome.error}, ERROR_INFO "
                    f"{outcome.info:#x}, ERROR_ADDRESS {outcome.address:#x}"
                )
        return run_steps(bench, oracle, [step])

    return run


def high_addresses(steps: Sequence[Step]) -> _Run:
    """Programs, and transfers outside, where all bits of an address are in use."""
    rng = random.Random(len(steps))
    anywhere = {region: rng.getrandbits(62) >> 18 << 18 | int(region) << 62 for region in Region}

    def run(bench: Bench, oracle: Oracle) -> str:
        with Bench(bench.library, bench.config, plusarg=bench.plusarg, bases=HIGH_BASES) as high:
            what = (
                run_steps(high, oracle, steps)
                or transfers_outside(steps[0])(high, oracle)
                or program_outside(steps[0])(high, oracle)
            )
        if what:
            return what
        with Bench(bench.library, bench.config, plusarg=bench.plusarg, bases=anywhere) as other:
            return transfers_outside(steps[1], elsewhere=True)(other, oracle)

    return run
