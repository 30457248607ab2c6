# SPDX-License-Identifier: Apache-2.0
"""A transport to a simulated core in this process (Verilator through ctypes)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lutvar.sim.verilated import SimulationTimeout, VerilatedTop

from .errors import BusError, FrameError, TransferTimeout
from .transport import Bytes, Stream, Transfer, as_bytes

_PORTS: dict[Stream, Literal["act", "wgt", "out"]] = {
    Stream.ACT: "act",
    Stream.WGT: "wgt",
    Stream.OUT: "out",
}
#: Cycles simulated at a time while more transfers than the awaited ones are queued: how late a
#: wait may end.
_STEP = 256


class SimTransport:
    """`Transport` over a `VerilatedTop`: the same signals as on a board, time counted exactly.

    Args:
        top: the simulated core; `close` closes it.
    """

    def __init__(self, top: VerilatedTop) -> None:
        self.top = top
        self._queues: dict[Stream, deque[Transfer]] = {stream: deque() for stream in Stream}
        self._seen: dict[Stream, int] = {}
        self._forget()

    def read32(self, offset: int) -> int:
        try:
            value, response = self.top.reg_read(offset)
        except SimulationTimeout:
            raise BusError("read", offset, None) from None
        if response:
            raise BusError("read", offset, response)
        return value

    def write32(self, offset: int, value: int) -> None:
        try:
            response = self.top.reg_write(offset, value)
        except SimulationTimeout:
            raise BusError("write", offset, None) from None
        if response:
            raise BusError("write", offset, response)

    def send(self, stream: Stream, data: Bytes) -> Transfer:
        transfer = Transfer(stream, as_bytes(data))
        self.top.send("act" if stream is Stream.ACT else "wgt", transfer.data)
        self._queues[stream].append(transfer)
        return transfer

    def receive(self, stream: Stream, nbytes: int) -> Transfer:
        transfer = Transfer(stream, np.empty(nbytes, dtype=np.uint8))
        self.top.want(nbytes)
        self._queues[stream].append(transfer)
        return transfer

    def wait(self, transfers: Sequence[Transfer], cycles: int) -> None:
        until = self.top.cycles + cycles
        self._update()
        while not all(t.complete for t in transfers):
            left = until - self.top.cycles
            if left <= 0:
                pending = [
                    (t.stream.value, t.done, len(t.data)) for t in transfers if not t.complete
                ]
                raise TransferTimeout(cycles, pending)
            queued = sum(len(queue) for queue in self._queues.values())
            others = queued > sum(not t.complete for t in transfers)
            self.top.run(min(left, _STEP) if others else left)
            self._update()

    def idle(self, cycles: int) -> None:
        self.top.idle(cycles)
        self._update()

    def abort(self) -> None:
        self.top.clear_streams()
        for queue in self._queues.values():
            queue.clear()
        self._forget()

    def close(self) -> None:
        self.top.close()

    def _forget(self) -> None:
        """Count beats from here on."""
        self._seen = {stream: self.top.beats(port) for stream, port in _PORTS.items()}
        self._packet_ends = 0  # TLASTs looked at
        self._received = 0  # bytes of finished packets, which TLAST positions count from

    def _update(self) -> None:
        """Hand out what has moved since the last call to the transfers, oldest first."""
        for stream, port in _PORTS.items():
            beats = self.top.beats(port)
            moved = (beats - self._seen[stream]) * self.top.stream_bytes
            self._seen[stream] = beats
            queue = self._queues[stream]
            while moved:
                transfer = queue[0]
                step = min(moved, len(transfer.data) - transfer.done)
                if stream is Stream.OUT:
                    transfer.data[transfer.done : transfer.done + step] = self.top.take(step)
                transfer.done += step
                moved -= step
                if stream is Stream.OUT:
                    self._check_end(transfer)
                if transfer.complete:
                    queue.popleft()

    def _check_end(self, transfer: Transfer) -> None:
        """TLAST must be on the last beat of each packet, and on no other."""
        size, total = self.top.stream_bytes, len(transfer.data)
        ends = [
            (beat + 1) * size - self._received for beat in self.top.lasts()[self._packet_ends :]
        ]
        ends = [end for end in ends if end <= transfer.done]
        if ends and ends[0] != total:
            raise FrameError(transfer.stream.value, total, ends[0])
        if transfer.complete:
            if not ends:
                raise FrameError(transfer.stream.value, total, None)
            self._packet_ends += 1
            self._received += total
