# SPDX-License-Identifier: Apache-2.0
"""A device double behind the Transport protocol: registers, jobs, results, planted faults."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import host_oracle
import numpy as np

from lutvar.contract.bits import pack_codes
from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.contract.identity import config_hash
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import BY_NAME, REGISTERS, Access
from lutvar.host.errors import BusError, TransferTimeout
from lutvar.host.packing import unpack_weights
from lutvar.host.transport import Bytes, Stream, Transfer, as_bytes

_QUEUE = 2
_NAMES = {r.offset: r.name for r in REGISTERS}


@dataclass
class Faults:
    """What goes wrong on purpose.

    Attributes:
        words: register name -> word read instead of the right one.
        refused: names of registers that answer SLVERR.
        hang: jobs never finish.
        error: (code, info) raised when a job would run.
    """

    words: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    hang: bool = False
    error: tuple[int, int] | None = None


class MockTransport:
    """Plays the device. ``log`` counts the driver's acts, ``most_queued`` is the deepest queue."""

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware, self.quant = hardware, quant
        self.layout = StreamLayout.of(hardware, quant)
        self.faults, self.log, self.most_queued = Faults(), Counter[str](), 0
        hash_ = config_hash(hardware, quant)
        caps0 = [hardware.token_rows, hardware.outputs, hardware.stream_bytes, quant.code_bits]
        self.fixed = {
            "HASH_LO": hash_ & 0xFFFFFFFF,
            "HASH_HI": hash_ >> 32,
            "CAPS0": sum(v << 8 * i for i, v in enumerate(caps0)),
            "CAPS1": hardware.max_groups | hardware.row_block << 16,
            "CAPS2": hardware.buffer_vectors,
        }
        self._clear()

    def _clear(self) -> None:
        self.words = {r.name: r.reset for r in REGISTERS} | self.fixed
        self.jobs: deque[dict[str, int]] = deque()
        self.queues: dict[Stream, deque[Transfer]] = {s: deque() for s in Stream}

    def read32(self, offset: int) -> int:
        name = _NAMES[offset]
        if name in self.faults.refused:
            raise BusError("read", offset, 2)
        self.words["CTRL"] = (not self.jobs) << 2 | (len(self.jobs) < _QUEUE) << 3
        return self.faults.words.get(name, self.words[name])

    def write32(self, offset: int, value: int) -> None:
        register = BY_NAME[_NAMES[offset]]
        if register.access is Access.RO or register.name in self.faults.refused:
            raise BusError("write", offset, 2)
        self.log[register.name] += 1
        if register.name == "SOFT_RESET":
            queues = self.queues
            self._clear()
            self.queues = queues  # a soft reset does not reach the DMA engines
        elif register.name == "CTRL":
            assert len(self.jobs) < _QUEUE, "a job was started although CTRL.ready is 0"
            names = ("ROWS", "GROUPS", "TILES", "FLAGS", "SCALE_EXP")
            self.jobs.append({n: self.words[n] for n in names})
            self.most_queued = max(self.most_queued, len(self.jobs))
        else:
            self.words[register.name] = value

    def send(self, stream: Stream, data: Bytes) -> Transfer:
        assert len(data) % self.hardware.stream_bytes == 0
        self.queues[stream].append(Transfer(stream, as_bytes(data)))
        return self.queues[stream][-1]

    def receive(self, stream: Stream, nbytes: int) -> Transfer:
        self.queues[stream].append(Transfer(stream, np.empty(nbytes, dtype=np.uint8)))
        return self.queues[stream][-1]

    def wait(self, transfers: Sequence[Transfer], cycles: int) -> None:
        self.log["cycles waited"] += cycles
        while not all(t.complete for t in transfers):
            if self.faults.error and self.jobs:
                self.words["ERROR"], self.words["ERROR_INFO"] = self.faults.error
            if self.faults.hang or self.words["ERROR"] or not self.jobs:
                raise TransferTimeout(
                    cycles, [(t.stream.value, t.done, len(t.data)) for t in transfers]
                )
            self._work()

    def idle(self, cycles: int) -> None:
        if self.jobs and not self.faults.hang:
            self._work()

    def abort(self) -> None:
        for queue in self.queues.values():
            queue.clear()

    def close(self) -> None:
        self.log["close"] += 1

    def _pop(self, stream: Stream) -> Transfer:
        transfer = self.queues[stream].popleft()
        transfer.done = len(transfer.data)
        return transfer

    def _work(self) -> None:
        """Finish the oldest job."""
        job = self.jobs.popleft()
        rows, groups, tiles = job["ROWS"], job["GROUPS"], job["TILES"]
        flags = {f.name: bool(job["FLAGS"] >> f.low & 1) for f in BY_NAME["FLAGS"].fields}
        assert rows % self.hardware.token_rows == 0
        assert rows // self.hardware.token_rows * groups <= self.hardware.buffer_vectors
        act = (
            self._pop(Stream.ACT).data.view("<f2").reshape(rows, groups * GROUP).astype(np.float64)
        )
        if flags["rotate"]:
            act = host_oracle.rotate(act, self.quant.hadamard_seed)
        fmt = self.quant.dual_format if flags["dual"] else self.quant.plain_format
        assert fmt is not None
        codes = host_oracle.quantize(act, fmt)
        if flags["dump"]:
            out = self._dump(*codes)
        else:
            n, layout = self.hardware.outputs, self.layout
            weight = unpack_weights(self._pop(Stream.WGT).data, layout, tiles * n, groups)
            exponent = (job["SCALE_EXP"] ^ 0x80) - 0x80
            y = host_oracle.multiply(*codes, fmt, weight, self.quant.weight_format, exponent)
            t = self.hardware.token_rows
            out = y.reshape(rows // t, t, tiles, n).transpose(2, 0, 1, 3).astype("<f4")
        transfer = self._pop(Stream.OUT)
        assert transfer.data.nbytes == out.nbytes
        transfer.data[:] = as_bytes(out)
        self.words["JOBS"] += 1
        self.words["CYCLES_LO"] += 100

    def _dump(self, codes: np.ndarray, scale: np.ndarray, scale_neg: np.ndarray) -> np.ndarray:
        """A dump packet, section by section as the layout's text says."""
        t, groups, layout = self.hardware.token_rows, scale.shape[1], self.layout
        parts = []
        for v in range(0, len(codes), t):
            for g in range(groups):
                pair = np.stack([scale[v : v + t, g], scale_neg[v : v + t, g]], axis=-1)
                lanes = codes[v : v + t, g * GROUP : (g + 1) * GROUP]
                for section, beats in (
                    (as_bytes(pair.astype("<u2")), layout.dump_scale_beats),
                    (as_bytes(pack_codes(lanes, layout.code_bits)), layout.dump_code_beats),
                ):
                    parts.append(np.zeros(beats * layout.stream_bytes, np.uint8))
                    parts[-1][: len(section)] = section
        return np.concatenate(parts)
