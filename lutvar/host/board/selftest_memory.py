# SPDX-License-Identifier: Apache-2.0
"""Memory as host and device see it: patterns that depend on the address, written by either.

A pattern that is the same everywhere passes on a memory that answers the wrong address, and on
caches that were never written back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region, address
from lutvar.host.device import PAGE, Device
from lutvar.host.kept import forget
from lutvar.host.transport import Bytes, MemoryTransport

from .memory_map import Part, parts, probes
from .unit_programs import ROW, copy_model, copy_program

_PIECE = 1 << 20  #: bytes at a time when all of the memory is tested
_ROOM = 1 << 16  #: bytes for the program
_BATCH = 64  #: rows that one program copies
_LIMIT = 1_000_000  #: cycles


def words_at(where: int, count: int, salt: int) -> NDArray[np.uint32]:
    """The pattern of `count` words of 4 bytes from an address on; another `salt`, another one."""
    low = np.uint64(where) + np.arange(count, dtype=np.uint64) * np.uint64(4)
    mixed = low * np.uint64(0x9E37_79B9_7F4A_7C15) + np.uint64(salt * 0xD6E8_FEB8_6659_FD93 % 2**64)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def row_at(where: int, salt: int) -> Bytes:
    """The pattern of a row of 128 float32 values: whole numbers from 1 on, exact in sums."""
    words = (words_at(where, ROW // 4, salt) >> np.uint32(9)) + np.uint32(1)
    return words.astype(np.float32).view(np.uint8)


class Difference(Exception):
    """Something read is not what it should be; the text says where and what."""


def expect(got: Bytes, right: Bytes, base: int, what: str) -> None:
    """Raise Difference unless equal."""
    wrong = np.flatnonzero(got != right)
    if wrong.size:
        first = int(wrong[0]) & ~3
        values = [bytes(part[first : first + 4])[::-1].hex() for part in (got, right)]
        raise Difference(
            f"{what}: {wrong.size} of {len(got)} bytes differ, the first word at "
            f"0x{base + first:X}: 0x{values[0]}, right is 0x{values[1]}"
        )


def host_memory(transport: MemoryTransport, salt: int, *, full: bool) -> dict[str, Any]:
    """The host writes and reads back, all places first and then all again. Raises Difference.

    Args:
        transport: its memory loses its contents.
        salt: another pattern for each round.
        full: every byte; else a page at places that tell all address bits apart.
    """
    banks: dict[str, int] = {}
    places: list[tuple[int, int]] = []
    for part in parts(transport.base, transport.size):
        own = _pieces(part) if full else [(at, PAGE) for at in probes(part, PAGE)]
        banks[part.bank] = sum(size for _, size in own)
        places += own
    forget(transport)  # whatever model lies here is altered from now on
    for at, size in places:
        transport.write(at, words_at(transport.base + at, size // 4, salt).view(np.uint8))
    for at, size in places:
        right = words_at(transport.base + at, size // 4, salt).view(np.uint8)
        expect(transport.read(at, size), right, transport.base + at, "written and read by the host")
    return {"bytes": banks}


def _pieces(part: Part) -> list[tuple[int, int]]:
    end = (part.first + part.size) & ~3
    return [(at, min(_PIECE, end - at)) for at in range(part.first, end, _PIECE)]


def device_memory(device: Device, salt: int) -> dict[str, Any]:
    """The device copies rows from everywhere to one place, and from there to everywhere.

    What the host has written the device must read, and the other way round: with data in caches
    of the host, an address bit that goes nowhere, or regions in the wrong bank, one of them fails.
    Raises Difference, and what `Device.run` raises.
    """
    transport, model = device.transport, copy_model(device.config)
    size = transport.size - len(model) - _BATCH * ROW - _ROOM - 4 * PAGE
    device.place(model, size // PAGE * PAGE, _BATCH * ROW, PAGE)
    start = -(-len(model) // PAGE) * PAGE  # of WORK in the buffer
    base = transport.base + start
    rows = [at for part in parts(base, size // PAGE * PAGE) for at in probes(part, ROW)]
    for at in rows:
        device.write(Region.WORK, at, row_at(base + at, salt))
    for batch in _batches(rows):
        moves = [(address(Region.WORK, at), address(Region.IO, i * ROW)) for i, at in batch]
        device.run(copy_program(device.config, moves), _LIMIT, "copy out of memory")
        for i, at in batch:
            got = device.read(Region.IO, i * ROW, ROW)
            expect(got, row_at(base + at, salt), base + at, "from host to device")
    for batch in _batches(rows):
        for i, at in batch:
            device.write(Region.IO, i * ROW, row_at(base + at, ~salt & 0xFFFF))
        moves = [(address(Region.IO, i * ROW), address(Region.WORK, at)) for i, at in batch]
        device.run(copy_program(device.config, moves), _LIMIT, "copy into memory")
    for at in rows:
        got = device.read(Region.WORK, at, ROW)
        right = row_at(base + at, ~salt & 0xFFFF)
        expect(got, right, base + at, "from device to host")
    return {"rows": len(rows)}


def _batches(rows: Sequence[int]) -> list[list[tuple[int, int]]]:
    return [list(enumerate(rows[i : i + _BATCH])) for i in range(0, len(rows), _BATCH)]
