# SPDX-License-Identifier: Apache-2.0
"""A transport inside cocotb, so that the blocking driver runs unchanged against AXI bus models.

The driver runs in a bridge thread, and each call below resumes the simulator until it is answered:

    transport = CocotbTransport(dut)
    y = await cocotb.task.bridge(use_the_driver)(transport)

Slower than `lutvar.host.sim_transport`, but the bus models check the protocol and can stretch it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import cocotb
import numpy as np
from cocotb.task import resume
from cocotb.triggers import ClockCycles
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from lutvar.host.errors import BusError, FrameError, TransferTimeout
from lutvar.host.transport import Bytes, Stream, Transfer, as_bytes

_T = TypeVar("_T")
#: Cycles between two looks at unfinished transfers: how late a wait may end.
_STEP = 8


class CocotbTransport:
    """`Transport` over the bus models of cocotbext-axi; methods are for a bridge thread only.

    Args:
        dut: handle of ``lutvar_top`` with its clock running.
        bus_limit: cycles to wait for an answer on the control port.

    Attributes:
        master, sources, sink: the bus models; pause generators may be set on their streams.
    """

    def __init__(self, dut: Any, *, bus_limit: int = 1000) -> None:
        self.dut, self._bus_limit = dut, bus_limit
        ends = {"clock": dut.ap_clk, "reset": dut.ap_rst_n, "reset_active_level": False}
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), **ends)
        self.sources = {
            stream: AxiStreamSource(AxiStreamBus.from_prefix(dut, stream.value), **ends)
            for stream in (Stream.ACT, Stream.WGT)
        }
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, Stream.OUT.value), **ends)
        self._receiving: deque[Transfer] = deque()

    def read32(self, offset: int) -> int:
        answer = self._blocking(self._answered, "read", offset, lambda: self.master.read(offset, 4))
        return int.from_bytes(answer.data, "little")

    def write32(self, offset: int, value: int) -> None:
        data = value.to_bytes(4, "little")
        self._blocking(self._answered, "write", offset, lambda: self.master.write(offset, data))

    def send(self, stream: Stream, data: Bytes) -> Transfer:
        transfer = Transfer(stream, as_bytes(data))

        def finished(frame: AxiStreamFrame) -> None:
            if frame.sim_time_end is not None:  # None when the queue was cleared
                transfer.done = len(transfer.data)

        frame = AxiStreamFrame(transfer.data.tobytes(), tx_complete=finished)
        self._blocking(self.sources[stream].send, frame)
        return transfer

    def receive(self, stream: Stream, nbytes: int) -> Transfer:
        transfer = Transfer(stream, np.empty(nbytes, dtype=np.uint8))
        self._receiving.append(transfer)
        return transfer

    def wait(self, transfers: Sequence[Transfer], cycles: int) -> None:
        self._blocking(self._until_complete, transfers, cycles)

    def idle(self, cycles: int) -> None:
        self._blocking(self._pass, cycles)

    def abort(self) -> None:
        self._blocking(self._abort)

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _blocking(function: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> _T:
        return resume(function)(*arguments)

    async def _answered(
        self, operation: str, offset: int, access: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        """Run one bus access; refuse its error response or its silence."""
        task = cocotb.start_soon(access())
        for _ in range(self._bus_limit):
            await ClockCycles(self.dut.ap_clk, 1)
            if task.done():
                break
        else:
            task.cancel()
            raise BusError(operation, offset, None)
        answer = task.result()
        if int(answer.resp):
            raise BusError(operation, offset, int(answer.resp))
        return answer

    async def _pass(self, cycles: int) -> None:
        await ClockCycles(self.dut.ap_clk, cycles)
        self._collect()

    async def _until_complete(self, transfers: Sequence[Transfer], cycles: int) -> None:
        self._collect()
        spent = 0
        while not all(t.complete for t in transfers):
            if spent >= cycles:
                pending = [
                    (t.stream.value, t.done, len(t.data)) for t in transfers if not t.complete
                ]
                raise TransferTimeout(cycles, pending)
            await self._pass(_STEP)
            spent += _STEP

    async def _abort(self) -> None:
        """Restart the stream models: their reset also drops a packet that is half through."""
        self._receiving.clear()
        models = (*self.sources.values(), self.sink)
        for model in models:
            model.clear()
            model.assert_reset(True)
        await ClockCycles(self.dut.ap_clk, 2)
        for model in models:
            model.clear()
            model.assert_reset(False)

    def _collect(self) -> None:
        """Give received packets to the transfers that wait for them, oldest first."""
        while self._receiving and not self.sink.empty():
            data = as_bytes(bytes(self.sink.recv_nowait().tdata))
            transfer = self._receiving.popleft()
            if len(data) != len(transfer.data):
                raise FrameError(transfer.stream.value, len(transfer.data), len(data))
            transfer.data[:] = data
            transfer.done = len(data)
