# SPDX-License-Identifier: Apache-2.0
"""Programs that break rules: encoded programs with fields, words or bits changed.

All fields come from the instruction table, so that a new field is changed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    PAYLOAD_FIELDS,
    PROGRAM_HEADER,
    Opcode,
    OperandField,
)

Words = list[int]
BITS = INSTRUCTION_BYTES * 8
#: Fields of every instruction word, and the one of a program's header that counts them.
INDEX = next(f for f in HEADER_FIELDS if f.name == "index")
OPCODE = next(f for f in HEADER_FIELDS if f.name == "opcode")
LENGTH = next(f for f in PROGRAM_HEADER if f.name == "length")


def words_of(raw: bytes) -> Words:
    """The words of an encoded program, its header first."""
    size = INSTRUCTION_BYTES
    return [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]


def bytes_of(words: Sequence[int]) -> bytes:
    """The inverse of `words_of`."""
    return b"".join(word.to_bytes(INSTRUCTION_BYTES, "little") for word in words)


def get(word: int, item: OperandField) -> int:
    """A field of a word, unsigned."""
    return word >> item.low & ((1 << item.width) - 1)


def put(word: int, item: OperandField, value: int) -> int:
    """A word with a field replaced; excess bits of the value are dropped."""
    mask = (1 << item.width) - 1
    return word & ~(mask << item.low) | (value & mask) << item.low


def fields_of(word: int) -> tuple[OperandField, ...]:
    """Fields of an instruction word; those common to all when its opcode is unknown."""
    try:
        return (*HEADER_FIELDS, *PAYLOAD_FIELDS[Opcode(get(word, OPCODE))])
    except ValueError:
        return HEADER_FIELDS


def renumbered(words: Words) -> Words:
    """The same with right indices and a right length."""
    head = put(words[0], LENGTH, len(words) - 1) if words else 0
    return [head, *(put(word, INDEX, i) for i, word in enumerate(words[1:]))]


def _value(rng: np.random.Generator, item: OperandField, old: int) -> int:
    """Another value: near the old one, at a boundary, a power of two, or any."""
    top = (1 << item.width) - 1
    choice = int(rng.integers(6))
    if choice == 0:
        return old + int(rng.choice([-2, -1, 1, 2]))
    if choice == 1:
        return int(rng.choice([0, 1, 2, 3])) if rng.integers(2) else top - int(rng.integers(3))
    if choice == 2:
        return 1 << int(rng.integers(item.width))
    if choice == 3:
        return old ^ 1 << int(rng.integers(item.width))
    if choice == 4 and item.width > 6:  # keeps alignment and small sizes
        return old + 64 * int(rng.integers(-8, 9))
    return int.from_bytes(rng.bytes(8), "little") & top


def _field(rng: np.random.Generator, words: Words) -> bool:
    at = int(rng.integers(1, len(words)))
    fields = fields_of(words[at])
    if len(fields) > len(HEADER_FIELDS) and rng.integers(4):
        fields = fields[len(HEADER_FIELDS) :]
    item = fields[int(rng.integers(len(fields)))]
    words[at] = put(words[at], item, _value(rng, item, get(words[at], item)))
    return False


def _header(rng: np.random.Generator, words: Words) -> bool:
    item = PROGRAM_HEADER[int(rng.integers(len(PROGRAM_HEADER)))]
    words[0] = put(words[0], item, _value(rng, item, get(words[0], item)))
    return False


def _waits(rng: np.random.Generator, words: Words) -> bool:
    fields = [f for f in HEADER_FIELDS if f.name.startswith("wait_")]
    at = int(rng.integers(1, len(words)))
    for item in fields:
        if rng.integers(2):
            words[at] = put(words[at], item, _value(rng, item, get(words[at], item)))
    return False


def _panels(rng: np.random.Generator, words: Words) -> bool:
    """Wrong numbers of beats, panels or readings: what FETCH brings is not what MATRIX takes."""
    fetches = [i for i, w in enumerate(words) if i and get(w, OPCODE) == Opcode.FETCH]
    if not fetches:
        return _field(rng, words)
    at = fetches[int(rng.integers(len(fetches)))]
    names = ("beats", "full", "rest", "panels", "repeat")
    counts = [f for f in PAYLOAD_FIELDS[Opcode.FETCH] if f.name in names]
    item = counts[int(rng.choice([0, 0, 0, 1, 2, 2, 3, 4]))]
    change = int(rng.choice([-33, -2, -1, -1, 1, 1, 2, 33]))
    words[at] = put(words[at], item, max(1, get(words[at], item) + change))
    return False


def _swap(rng: np.random.Generator, words: Words) -> bool:
    a, b = (int(rng.integers(1, len(words))) for _ in range(2))
    words[a], words[b] = words[b], words[a]
    return True


def _drop(rng: np.random.Generator, words: Words) -> bool:
    if len(words) > 2:
        del words[int(rng.integers(1, len(words)))]
    return True


def _double(rng: np.random.Generator, words: Words) -> bool:
    at = int(rng.integers(1, len(words)))
    words.insert(int(rng.integers(1, len(words))), words[at])
    return True


def _bits(rng: np.random.Generator, words: Words) -> bool:
    at = int(rng.integers(len(words)))
    for _ in range(int(rng.integers(1, 9))):
        words[at] ^= 1 << int(rng.integers(BITS))
    return False


def _noise(rng: np.random.Generator, words: Words) -> bool:
    words[int(rng.integers(1, len(words)))] = int.from_bytes(rng.bytes(INSTRUCTION_BYTES), "little")
    return False


def _truncate(rng: np.random.Generator, words: Words) -> bool:
    del words[int(rng.integers(1, len(words))) + 1 :]
    return bool(rng.integers(2))


#: Changes and how often each is chosen.
_CHANGES: tuple[tuple[Callable[[np.random.Generator, Words], bool], int], ...] = (
    (_field, 8), (_panels, 5), (_waits, 2), (_swap, 2), (_drop, 2), (_double, 2), (_bits, 2),
    (_header, 1), (_noise, 1), (_truncate, 1),
)  # fmt: skip


def malform(rng: np.random.Generator, raw: bytes) -> bytes:
    """A program with one to three changes; most of them keep index and length right."""
    words = words_of(raw)
    weights = np.array([weight for _, weight in _CHANGES], float)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if len(words) < 2:  # only the header is left
            break
        change = _CHANGES[int(rng.choice(len(_CHANGES), p=weights / weights.sum()))][0]
        if change(rng, words) and rng.integers(4):
            words = renumbered(words)
    return bytes_of(words)
