# SPDX-License-Identifier: Apache-2.0
"""A run's traffic in a file, and the device that such a file is.

`uio:lutvar?record=run.rec` writes one line of JSON for each call of the transport; `replay:run.rec`
answers a driver with them, and says where it first does something else. So a run on a board can be
repeated where there is none. Contents written are kept up to `KEPT` bytes and as a hash beyond, so
that a model of hundreds of megabytes does not swell the file.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lutvar.contract.register_map import REGISTERS
from lutvar.files import OutputError, json_text

from .errors import BadInput, BusError, HostError
from .open import Address
from .transport import Bytes, Clock, MemoryTransport

FORMAT = "lutvar-record-1"
KEPT = 1 << 20  #: bytes
_NAMES = {r.offset: r.name for r in REGISTERS}
Event = list[Any]


class ReplayMismatch(HostError):
    """The driver does something else than the record has.

    Attributes:
        index: of the event, from 0.
    """

    def __init__(self, path: Path, index: int, recorded: str, found: str) -> None:
        self.index = index
        super().__init__(
            f"event {index} of {path}: the record has {recorded}, the driver does {found}; record "
            "again if the driver has changed on purpose"
        )


def _text(data: Bytes) -> str:
    return b64encode(zlib.compress(data.tobytes(), 1)).decode()


def _bytes(text: str) -> Bytes:
    return np.frombuffer(zlib.decompress(b64decode(text)), np.uint8)


def _digest(data: Bytes) -> str:
    return hashlib.sha256(data.tobytes()).hexdigest()[:32]


def describe(event: Event) -> str:
    """An event in words."""
    kind, *rest = event
    if kind in ("read", "write"):
        value = f" = 0x{rest[1]:X}" if isinstance(rest[1], int) else " (refused)"
        return f"{kind} {_NAMES.get(rest[0], hex(rest[0]))}{'' if kind == 'read' else value}"
    if kind in ("get", "put"):
        return f"{kind} {rest[1]} bytes at 0x{rest[0]:X}"
    return " ".join(str(part) for part in [kind, *rest[:1]])


class Recorder:
    """A `MemoryTransport` that notes what passes through another one.

    Args:
        inner: closed with this one.
        path: file to write.

    Raises:
        OutputError: the file cannot be written, at first or at any call; `inner` is not closed
            by that.
    """

    clock: Clock

    def __init__(self, inner: MemoryTransport, path: str | Path) -> None:
        self._inner = inner
        self.name, self.base, self.size, self.clock = (
            inner.name, inner.base, inner.size, inner.clock,
        )  # fmt: skip
        self._written: dict[int, tuple[int, str]] = {}
        self._path = Path(path)
        with self._writing():
            self._file = self._path.open("w", encoding="utf-8")
        header = {"format": FORMAT, "name": self.name, "base": self.base, "size": self.size}
        self._note({**header, "clock": self.clock})

    def _note(self, what: dict[str, Any] | Event) -> None:
        with self._writing():
            self._file.write(json_text(what, separators=(",", ":")) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"record {self._path}: cannot be written: {error.strerror}; name a file in a "
                "folder that exists, on a disk with space"
            ) from error

    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        try:
            value = self._inner.read32(offset)
        except BusError as error:
            self._note(["read", offset, [error.resp]])
            raise
        self._note(["read", offset, value])
        return value

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        try:
            self._inner.write32(offset, value)
        except BusError as error:
            self._note(["write", offset, [error.resp], value])
            raise
        self._note(["write", offset, value])

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        data = self._inner.read(offset, count)
        same = self._written.get(offset) == (count, _digest(data)) if count > KEPT else False
        self._note(["get", offset, count, None if same else _text(data)])
        return data

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        self._inner.write(offset, data)
        digest = _digest(data)
        self._written[offset] = (len(data), digest)
        self._note(["put", offset, len(data), digest, _text(data) if len(data) <= KEPT else None])

    def arm(self) -> None:
        """See `MemoryTransport`."""
        self._inner.arm()
        self._note(["arm"])

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`."""
        woken = self._inner.wait(amount)
        self._note(["wait", amount, woken])
        return woken

    def now(self) -> float:
        """See `MemoryTransport`."""
        value = self._inner.now()
        self._note(["now", value])
        return value

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`."""
        value = self._inner.deadline(cycles)
        self._note(["deadline", cycles, value])
        return value

    def close(self) -> None:
        """See `MemoryTransport`."""
        try:
            with self._writing():
                self._file.close()
        finally:
            self._inner.close()


class Replay:
    """A `MemoryTransport` that is a record: it answers as the device did.

    Args:
        path: what a `Recorder` wrote.

    Raises:
        BadInput: no record.
    """

    clock: Clock

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lines = _lines(self.path)
        header = next(self._lines, None)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise BadInput(f"{path}: is no {FORMAT} file; record one with ?record={path}")
        self.name = f"replay:{path} of {header['name']}"
        self.base, self.size, self.clock = header["base"], header["size"], header["clock"]
        self._index = 0
        self._written: dict[int, Bytes] = {}
        self._mismatch: ReplayMismatch | None = None

    def _next(self, found: Event, compared: int) -> Event:
        """The next event, whose first parts must be those of `found`."""
        if self._mismatch is not None:
            raise self._mismatch
        event = next(self._lines, None)
        if not isinstance(event, list) or event[:compared] != found[:compared]:
            recorded = describe(event) if isinstance(event, list) else "its end"
            self._fail(recorded, describe(found))
        self._index += 1
        return event  # type: ignore[return-value]

    def _fail(self, recorded: str, found: str) -> None:
        self._mismatch = ReplayMismatch(self.path, self._index, recorded, found)
        raise self._mismatch

    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        value = self._next(["read", offset, 0], 2)[2]
        if isinstance(value, list):
            raise BusError("read", offset, value[0])
        return int(value)

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        event = self._next(["write", offset, value], 2)
        refused = isinstance(event[2], list)
        if event[3 if refused else 2] != value:
            self._index -= 1
            self._fail(describe(event), describe(["write", offset, value]))
        if refused:
            raise BusError("write", offset, event[2][0])

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        text = self._next(["get", offset, count], 3)[3]
        return self._written[offset].copy() if text is None else _bytes(text).copy()

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        event = self._next(["put", offset, len(data)], 3)
        if event[3] != _digest(data):
            self._index -= 1
            at = "somewhere"
            if event[4] is not None:
                at = f"from byte {int(np.flatnonzero(_bytes(event[4]) != data)[0])}"
            self._fail(describe(event), f"the same with other contents, {at}")
        if len(data) > KEPT:
            self._written[offset] = data

    def arm(self) -> None:
        """See `MemoryTransport`."""
        self._next(["arm"], 1)

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`."""
        return bool(self._next(["wait", amount], 2)[2])

    def now(self) -> float:
        """See `MemoryTransport`."""
        return float(self._next(["now"], 1)[1])

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`."""
        return float(self._next(["deadline", cycles], 2)[2])

    def close(self) -> None:
        """See `MemoryTransport`. Raises ReplayMismatch when the record goes on, or did differ."""
        if self._mismatch is None:
            event = next(self._lines, None)
            if event is None:
                return
            self._mismatch = ReplayMismatch(self.path, self._index, describe(event), "nothing more")
        raise self._mismatch


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # the recording process was killed
            try:
                yield json.loads(line)
            except ValueError:
                raise BadInput(f"{path}: a line that is no JSON; record again") from None


def open_replay(address: Address) -> Replay:
    """`replay:FILE` for `lutvar.host.open`."""
    address.allow()
    if not Path(address.target).is_file():
        raise BadInput(f"{address}: there is no such file")
    return Replay(address.target)
