# SPDX-License-Identifier: Apache-2.0
"""The driver: jobs, splitting, deadlines, errors. It blocks, and knows no simulator and no bus.

with Accelerator(transport, hardware, quant) as device:
    y = device.run(packed["block0.qkv"], rows)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.identity import config_hash
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import BY_NAME, MAGIC, VERSION

from .errors import BadInput, DeviceError, DeviceTimeout, IncompatibleDevice, TransferTimeout
from .packed import LayerArgs, PackedLinear
from .packing import (
    DumpedCodes,
    pack_activations,
    padded_rows,
    to_fp16,
    unpack_dump,
    unpack_results,
)
from .status import Counters, Snapshot, read_register
from .transport import Bytes, Stream, Transfer, Transport

#: Jobs given to the device at a time: one runs, one is queued behind it.
_IN_FLIGHT = 2
#: Cycles between two looks at ERROR while transfers are under way.
_SLICE = 1 << 14
#: Cycles between two reads of a register that is polled.
_POLL = 32


@dataclass(frozen=True)
class _Job:
    """A job that the device has: its transfers, and when it must be finished."""

    what: str
    transfers: tuple[Transfer, ...]
    deadline: int  # cycles

    @property
    def result(self) -> Bytes:
        return self.transfers[-1].data


class Accelerator:
    """One device, used by one thread.

    Args:
        transport: access to the device; the driver does not close it.
        hardware, quant: the configuration that the device must have.
        patience: a job may take this many times the cycles of an estimate without any overlap.
        grace: cycles added to each deadline; also the deadline of register waits.
        watchdog: cycles without progress before the device reports STALL; None: its own default.
    """

    def __init__(
        self,
        transport: Transport,
        hardware: HardwareConfig,
        quant: QuantConfig,
        *,
        patience: int = 8,
        grace: int = 200_000,
        watchdog: int | None = None,
    ) -> None:
        self.transport, self.hardware, self.quant = transport, hardware, quant
        self.layout = StreamLayout.of(hardware, quant)
        self._patience, self._grace, self._watchdog = patience, grace, watchdog

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.transport.abort()

    def open(self) -> None:
        """Check that the device is the one expected, and bring it to a clean state.

        Raises:
            IncompatibleDevice: magic, version, hash or a size differs.
        """
        hash_ = config_hash(self.hardware, self.quant)
        hw = self.hardware
        same = f"load the bitstream of {hw.name} with {self.quant.name}, or open with what it has"
        self._expect("MAGIC", MAGIC, "this is no lutvar accelerator; check the base address")
        self._expect(
            "VERSION", VERSION, "gateware and host differ in version; use matching releases"
        )
        self._expect("CAPS0", hw.token_rows, same, "token_rows")
        self._expect("CAPS0", hw.outputs, same, "outputs")
        self._expect("CAPS0", hw.stream_bytes, same, "stream_bytes")
        self._expect("CAPS0", self.quant.code_bits, same, "code_bits")
        self._expect("CAPS1", hw.max_groups, same, "max_groups")
        self._expect("CAPS1", hw.row_block, same, "row_block")
        self._expect("CAPS2", hw.buffer_vectors, same)
        self._expect("HASH_LO", hash_ & 0xFFFF_FFFF, same)
        self._expect("HASH_HI", hash_ >> 32, same)
        self.soft_reset()

    def soft_reset(self) -> None:
        """Abort every job, clear error and counters. Raises DeviceTimeout when it stays busy."""
        self._write("SOFT_RESET", 1)
        self.transport.abort()
        self._poll("idle", "soft reset")
        if self._watchdog is not None:
            self._write("WATCHDOG", self._watchdog)

    def counters(self) -> Counters:
        """Performance counters since the last soft reset."""
        return Counters.read(self.transport)

    def rows_per_job(self, groups: int) -> int:
        """Rows of K = 128 * groups that fit one activation bank, a multiple of T."""
        return self.hardware.buffer_vectors // groups * self.hardware.token_rows

    def run(self, layer: PackedLinear, rows: ArrayLike) -> NDArray[np.float32]:
        """Multiply rows by a layer's weights.

        Rows are rounded to FP16, and split over several jobs when they exceed the activation bank;
        the next job is queued while one runs.

        Args:
            layer: packed for this configuration.
            rows: float32 or float16 [R, K], finite.

        Returns:
            float32 [R, O].

        Raises:
            BadInput: rows or layer do not fit; nothing was sent.
            DeviceError: the device reported an error.
            DeviceTimeout: the device did not finish in time.
        """
        x = self._check(layer, rows)
        outputs, tiles = layer.args.out_features, layer.tiles(self.layout)
        y = np.empty((len(x), outputs), dtype=np.float32)
        for part, data in self._jobs(layer.name, layer.args, x, tiles, layer.stream):
            y[part] = unpack_results(data, self.layout, part.stop - part.start, outputs)
        return y

    def dump_codes(self, layer: PackedLinear, rows: ArrayLike) -> DumpedCodes:
        """What the device quantizes rows to for this layer; same arguments and errors as `run`."""
        x = self._check(layer, rows)
        groups = layer.args.groups
        parts = [
            unpack_dump(data, self.layout, part.stop - part.start, groups)
            for part, data in self._jobs(layer.name, layer.args, x, 0, None)
        ]
        return DumpedCodes(
            np.concatenate([p.codes for p in parts]),
            np.concatenate([p.scale for p in parts]),
            np.concatenate([p.scale_neg for p in parts]),
        )

    def _check(self, layer: PackedLinear, rows: ArrayLike) -> NDArray[np.float16]:
        """Refuse what the device would refuse, and what it cannot know to be wrong."""
        x, args, hw = np.asarray(rows), layer.args, self.hardware
        if x.ndim != 2 or x.shape[1] != args.in_features or not len(x):
            raise BadInput(
                f"{layer.name}: rows of shape {x.shape}; "
                f"[R, {args.in_features}] with R >= 1 is needed"
            )
        if args.groups > hw.max_groups:
            raise BadInput(
                f"{layer.name}: {args.groups} groups, {hw.name} has max_groups {hw.max_groups}; "
                "a build with a larger max_groups is needed"
            )
        if args.dual and self.quant.dual_format is None:
            raise BadInput(f"{layer.name}: dual-format activations, but {self.quant.name} has none")
        wanted = self.layout.wgt_beats(args.groups, layer.tiles(self.layout)) * hw.stream_bytes
        if layer.stream.nbytes != wanted:
            raise BadInput(
                f"{layer.name}: weight stream of {layer.stream.nbytes} bytes, {hw.name} needs "
                f"{wanted}; pack the layer for this configuration"
            )
        try:
            return to_fp16(x)
        except BadInput as error:
            raise BadInput(f"{layer.name}: {error}") from None

    def _jobs(
        self, name: str, args: LayerArgs, x: NDArray[np.float16], tiles: int, weights: Bytes | None
    ) -> Iterator[tuple[slice, Bytes]]:
        """Run one job for each part of the rows; yields (part, result bytes) in order."""
        limit = self.rows_per_job(args.groups)
        pending: deque[tuple[slice, _Job]] = deque()
        for first in range(0, len(x), limit):
            part = slice(first, min(first + limit, len(x)))
            what = f"{name}, rows {part.start} to {part.stop - 1}"
            if len(pending) == _IN_FLIGHT:
                yield self._finish(*pending.popleft())
            pending.append((part, self._submit(what, args, x[part], tiles, weights)))
        while pending:
            yield self._finish(*pending.popleft())

    def _submit(
        self, what: str, args: LayerArgs, x: NDArray[np.float16], tiles: int, weights: Bytes | None
    ) -> _Job:
        """Write the arguments, start, queue the transfers. A job without weights dumps codes."""
        dump = weights is None
        rows, layout, size = padded_rows(len(x), self.layout), self.layout, self.layout.stream_bytes
        self._poll("ready", what)
        flags = BY_NAME["FLAGS"].fields
        values = {"rotate": args.rotate, "dual": args.dual, "dump": dump}
        self._write("ROWS", rows)
        self._write("GROUPS", args.groups)
        self._write("TILES", tiles)
        self._write("FLAGS", sum(int(values[f.name]) << f.low for f in flags))
        self._write("SCALE_EXP", args.scale_exp & 0xFF)
        self._write("CTRL", 1)

        transfers = [self.transport.send(Stream.ACT, pack_activations(x, layout))]
        if weights is not None:
            transfers.append(self.transport.send(Stream.WGT, weights))
        out = layout.out_beats(rows, args.groups, tiles, dump=dump)
        transfers.append(self.transport.receive(Stream.OUT, out * size))

        # Without any overlap: every beat of every stream, and every issue of the array with row
        # blocks filled up, since a short block waits for the adder.
        blocks = -(-rows // layout.token_rows // self.hardware.row_block)
        issues = tiles * args.groups * (1 + args.dual) * blocks * self.hardware.row_block
        beats = layout.act_beats(rows, args.groups) + layout.wgt_beats(args.groups, tiles) + out
        return _Job(what, tuple(transfers), self._patience * (beats + issues) + self._grace)

    def _finish(self, part: slice, job: _Job) -> tuple[slice, Bytes]:
        """Wait for a job, looking at ERROR between slices: a halted device finishes no transfer."""
        spent = 0
        while True:
            step = min(_SLICE, job.deadline - spent)
            try:
                self.transport.wait(job.transfers, step)
            except TransferTimeout:
                spent += step
                self._raise_error()
                if spent >= job.deadline:
                    snapshot = Snapshot.read(self.transport)
                    raise DeviceTimeout(job.what, job.deadline, snapshot) from None
            else:
                self._raise_error()
                return part, job.result

    def _poll(self, bit: str, what: str) -> None:
        """Wait for a bit of CTRL."""
        spent = 0
        while not BY_NAME["CTRL"].field_value(read_register(self.transport, "CTRL"), bit):
            self._raise_error()
            if spent >= self._grace:
                snapshot = Snapshot.read(self.transport)
                raise DeviceTimeout(f"{what}: CTRL.{bit}", self._grace, snapshot)
            self.transport.idle(_POLL)
            spent += _POLL

    def _raise_error(self) -> None:
        if code := read_register(self.transport, "ERROR"):
            snapshot = Snapshot.read(self.transport)
            raise DeviceError(code, snapshot.error_info, snapshot)

    def _write(self, name: str, value: int) -> None:
        self.transport.write32(BY_NAME[name].offset, value & 0xFFFF_FFFF)

    def _expect(self, register: str, expected: int, advice: str, field: str | None = None) -> None:
        found = read_register(self.transport, register)
        name = register
        if field is not None:
            found, name = BY_NAME[register].field_value(found, field), f"{register}.{field}"
        if found != expected:
            raise IncompatibleDevice(name, expected, found, advice)
