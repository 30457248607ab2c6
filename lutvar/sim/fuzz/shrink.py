# SPDX-License-Identifier: Apache-2.0
"""Makes a case small: fewer steps, fewer instructions, plainer fields, timing and events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lutvar.contract.isa import HEADER_FIELDS, UNITS, Opcode

from .case import Case, Step
from .events import Event, Timing
from .malformed import INDEX, LENGTH, OPCODE, Words, bytes_of, fields_of, get, put, words_of
from .oracle import Deviation, Oracle, Unpredictable, run_steps

_PAIRS = 14  #: words of a program of which all pairs are tried
_WAITS = tuple(f for f in HEADER_FIELDS if f.name.startswith("wait_"))


class _Shrinker:
    def __init__(
        self, library: Path, case: Case, deviation: Deviation, oracle: Oracle, seconds: float
    ) -> None:
        self.library, self.case, self.oracle = library, case, oracle
        self.last = deviation
        self.deadline = time.monotonic() + seconds

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline

    def keeps(self, steps: Sequence[Step]) -> bool:
        """Take the steps over when they deviate in the same way."""
        if self.late or not steps:
            return False
        try:
            for step in steps:
                if step.right:
                    self.oracle.expected(step)
            found = run_steps(self.library, self.case.config, self.oracle, steps)
        except Unpredictable:
            return False
        if found is None or found.kind != self.last.kind:
            return False
        self.case, self.last = self.case.with_steps(steps[: found.at + 1]), found
        return True

    def steps(self) -> None:
        """Drop the steps before the last ones, then single ones."""
        for keep in (1, 2, 4, 8, 16):
            if keep < len(self.case.steps) and self.keeps(self.case.steps[-keep:]):
                break
        at = len(self.case.steps) - 2
        while at >= 0 and not self.late:
            steps = list(self.case.steps)
            del steps[at]
            self.keeps(steps)
            at = min(at, len(self.case.steps)) - 1

    def change(self, at: int, make: Callable[[Step], Step]) -> bool:
        """Change one step."""
        if at >= len(self.case.steps):
            return False
        steps = list(self.case.steps)
        changed = make(steps[at])
        if changed == steps[at]:
            return False
        steps[at] = changed
        return self.keeps(steps)

    def step(self, at: int) -> None:
        """Make one step plainer."""
        self.change(at, lambda s: replace(s, event=None))
        if not self.change(at, lambda s: replace(s, timing=Timing())):
            self.timing(at)
        self.event(at)
        self.instructions(at)
        self.fills(at)
        if at < len(self.case.steps) and not self.case.steps[at].right:
            self.fields(at)

    def timing(self, at: int) -> None:
        for name in list(self.case.steps[at].timing.paces):

            def without(s: Step, name: str = name) -> Step:
                paces = {k: v for k, v in s.timing.paces.items() if k != name}
                return replace(s, timing=replace(s.timing, paces=paces))

            self.change(at, without)
        self.change(at, lambda s: replace(s, timing=replace(s.timing, orders={})))
        self.change(at, lambda s: replace(s, timing=replace(s.timing, bandwidth=0)))
        self.change(at, lambda s: replace(s, timing=replace(s.timing, serial=False)))

    def event(self, at: int) -> None:
        if at >= len(self.case.steps):
            return
        for name, low in (("cycle", 1), ("cycles", 1), ("count", 1), ("number", 1), ("keep", 0)):
            event = self.case.steps[at].event
            if event is None or name not in event.values:
                continue
            for value in _smaller(int(event[name]), low):

                def changed(s: Step, name: str = name, value: int = value) -> Step:
                    assert isinstance(s.event, Event)
                    return replace(s, event=s.event.changed(**{name: value}))

                if self.change(at, changed):
                    break

    def instructions(self, at: int) -> None:
        size = 8
        while size and at < len(self.case.steps):
            first = 1
            while at < len(self.case.steps) and not self.late:
                words = words_of(self.case.steps[at].program)
                if first >= len(words):
                    break
                fewer = _without(words, first, min(size, len(words) - first))
                if not self.program(at, fewer):
                    first += size
            size //= 2
        self.pairs(at)

    def program(self, at: int, words: Words) -> bool:
        """Try another program in a step."""
        return self.change(at, lambda step: replace(step, program=bytes_of(words)))

    def pairs(self, at: int) -> None:
        """Drop two instructions that need each other, such as a FETCH and its MATRIX."""
        first = 1
        while at < len(self.case.steps) and not self.late:
            words = words_of(self.case.steps[at].program)
            if first >= len(words) or len(words) > _PAIRS:
                return
            fewer = (
                _without(_without(words, second, 1), first, 1)
                for second in range(first + 1, len(words))
            )
            if not any(self.program(at, one) for one in fewer):
                first += 1

    def fields(self, at: int) -> None:
        for index in range(1, len(words_of(self.case.steps[at].program))):
            for name in (f.name for f in fields_of(words_of(self.case.steps[at].program)[index])):
                if name in ("opcode", "index", "mark"):
                    continue
                if at >= len(self.case.steps) or self.late:
                    return
                words = words_of(self.case.steps[at].program)
                if index >= len(words):
                    return
                item = next((f for f in fields_of(words[index]) if f.name == name), None)
                if item is None:
                    continue
                for value in _smaller(get(words[index], item), 0):
                    new = list(words)
                    new[index] = put(new[index], item, value)
                    if self.program(at, new):
                        break

    def fills(self, at: int) -> None:
        """Drop pieces of memory; a right step needs those that it reads."""
        self.change(at, lambda s: replace(s, fills=()))
        index = 0
        while at < len(self.case.steps) and index < len(self.case.steps[at].fills):
            step = self.case.steps[at]
            if step.right and not _unused(step, index):
                index += 1
                continue
            fewer = step.fills[:index] + step.fills[index + 1 :]
            if self.late or not self.change(at, lambda s, f=fewer: replace(s, fills=f)):  # type: ignore[misc]
                index += 1


def _unused(step: Step, index: int) -> bool:
    """No address of the program points into or just before a piece of memory."""
    fill = step.fills[index]
    where = (int(fill.region) << 38) + fill.offset
    for word in words_of(step.program)[1:]:
        for item in fields_of(word):
            if item.kind == "address" and where - 0x10000 < get(word, item) <= where:
                return False
    return True


def _smaller(value: int, low: int) -> Iterator[int]:
    """Smaller values to try: the smallest first."""
    step = value - low
    while step > 0:
        yield value - step
        step //= 4


def _without(words: Words, first: int, count: int) -> Words:
    """The program without some words; indices, length and waits that were right stay right."""
    left = [w for i, w in enumerate(words) if not first <= i < first + count]
    old = [i - 1 for i in range(len(words)) if not first <= i < first + count]
    gone = [0] * len(UNITS)
    for word in words[first : first + count]:
        opcode = get(word, OPCODE)
        if Opcode.FETCH <= opcode <= Opcode.ATTEND:
            gone[opcode - 1] += 1
    before = [0] * len(UNITS)
    counts = []
    for word in words:
        counts.append(tuple(before))
        opcode = get(word, OPCODE)
        if Opcode.FETCH <= opcode <= Opcode.ATTEND:
            before[opcode - 1] += 1
    result = []
    for at, (word, index) in enumerate(zip(left, old, strict=True)):
        if index < 0:
            if get(word, LENGTH) == len(words) - 1:
                word = put(word, LENGTH, len(left) - 1)
            result.append(word)
            continue
        if get(word, INDEX) == index & 0xFFFF:
            word = put(word, INDEX, at - 1)
        if index + 1 >= first:
            for unit, item in enumerate(_WAITS):
                wait = get(word, item)
                here = counts[index + 1][unit] - gone[unit]
                if wait <= counts[index + 1][unit]:
                    word = put(word, item, min(wait, max(here, 0)))
        result.append(word)
    return result


def shrink(
    library: Path, case: Case, deviation: Deviation, oracle: Oracle, seconds: float
) -> tuple[Case, Deviation]:
    """The smallest case found in so many seconds that deviates in the same way, and how.

    Comes back with the case as it is when a fresh device does not repeat the deviation.
    """
    shrinker = _Shrinker(library, case, deviation, oracle, seconds)
    if not shrinker.keeps(case.steps):
        return case, deviation
    shrinker.steps()
    for _ in range(2):
        for at in reversed(range(len(shrinker.case.steps))):
            if at < len(shrinker.case.steps):
                shrinker.step(at)
    return replace(shrinker.case, what=shrinker.last.what), shrinker.last
