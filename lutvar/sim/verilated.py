# SPDX-License-Identifier: Apache-2.0
"""A simulated core in this process: registers and streams of a Verilated top through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import Self

from .verilator import build

Stream = Literal["act", "wgt", "out"]
_STREAMS: dict[str, int] = {"act": 0, "wgt": 1, "out": 2}
_VOID, _INT, _U32, _U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64
#: name in wrapper.cpp without the prefix -> (result, arguments after the handle)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "destroy": (None, ()),
    "cycles": (_U64, ()),
    "interrupt": (_INT, ()),
    "reset": (None, (_U64,)),
    "clear_streams": (None, ()),
    "write": (_INT, (_U32, _U32, _U32, _U64)),
    "read": (_INT, (_U32, ctypes.POINTER(_U32), _U64)),
    "pauses": (None, (_INT, _U64, _U64)),
    "send": (None, (_INT, _VOID, _U64, _INT)),
    "want": (None, (_U64,)),
    "run": (_INT, (_U64, _INT)),
    "idle": (None, (_U64, _INT)),
    "beats": (_U64, (_INT,)),
    "pending": (_U64, (_INT,)),
    "available": (_U64, ()),
    "received": (_U64, ()),
    "take": (None, (_VOID, _U64)),
    "last_count": (_U64, ()),
    "lasts": (None, (_VOID,)),
}


class SimulationTimeout(RuntimeError):
    """The core did not answer on its control port within the cycle limit."""


@dataclass(frozen=True)
class PumpResult:
    """What one :meth:`VerilatedTop.pump` did.

    Attributes:
        done: every byte was sent and the wanted bytes arrived.
        cycles: clock cycles that it took.
        data: bytes received on m_axis_out, uint8.
        lasts: indices of the beats, within `data`, that carried TLAST.
    """

    done: bool
    cycles: int
    data: np.ndarray
    lasts: tuple[int, ...]


class VerilatedTop:
    """One simulated core with AXI masters on its ports.

    Transfers are queued with :meth:`send` and :meth:`want` and move whenever the clock runs: in
    :meth:`run`, :meth:`idle` and during register accesses. Transfers that are not complete
    stay queued after a time limit; :meth:`reset` and :meth:`clear_streams` drop them.

    Args:
        library: what :func:`lutvar.sim.verilator.build` returned.
        bus_limit: cycles to wait for an answer on the control port.
    """

    def __init__(self, library: Path | str, *, bus_limit: int = 1000) -> None:
        self._library = ctypes.CDLL(str(Path(library).absolute()))
        create = self._library.lutvar_create
        create.restype, create.argtypes = _VOID, ()
        self._calls: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, f"lutvar_{name}")
            function.restype, function.argtypes = result, (_VOID, *arguments)
            self._calls[name] = function
        self.stream_bytes: int = self._library.lutvar_stream_bytes()
        self.bus_limit = bus_limit
        self._handle: int | None = create()
        self.reset()

    @classmethod
    def from_verilog(
        cls,
        verilog: Path | str,
        stream_bytes: int,
        *,
        build_dir: Path | str = "build/sim",
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Build the model (or find it in the cache) and open it."""
        return cls(build(verilog, stream_bytes, build_dir=build_dir, progress=progress))

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._handle is None:
            raise ValueError("this simulation is closed; open a new VerilatedTop")
        return self._calls[name](self._handle, *arguments)

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""
        if self._handle is not None:
            self._calls["destroy"](self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def cycles(self) -> int:
        """Clock cycles since creation."""
        return int(self._call("cycles"))

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt line."""
        return bool(self._call("interrupt"))

    def reset(self, cycles: int = 8) -> None:
        """Hold ap_rst_n low; queued transfers and unread results are dropped."""
        self._call("reset", cycles)

    def clear_streams(self) -> None:
        """Drop queued transfers and unread results without touching the core."""
        self._call("clear_streams")

    def reg_write(self, offset: int, value: int, *, strobe: int = 0xF) -> int:
        """Write a word through AXI4-Lite. Returns the response: 0 is OKAY, 2 is SLVERR."""
        response = self._call("write", offset, value & 0xFFFFFFFF, strobe, self.bus_limit)
        if response < 0:
            raise SimulationTimeout(
                f"no answer to a write to 0x{offset:03X} in {self.bus_limit} cycles"
            )
        return int(response)

    def reg_read(self, offset: int) -> tuple[int, int]:
        """Read a word through AXI4-Lite. Returns (value, response)."""
        value = _U32()
        response = self._call("read", offset, ctypes.byref(value), self.bus_limit)
        if response < 0:
            raise SimulationTimeout(
                f"no answer to a read of 0x{offset:03X} in {self.bus_limit} cycles"
            )
        return value.value, int(response)

    def pauses(self, stream: Stream, probability: float, seed: int = 1) -> None:
        """Let a stream rest at random: TVALID of an input before a beat, TREADY of the output."""
        if not 0 <= probability < 1:
            raise ValueError(f"pause probability is {probability}; it must be in [0, 1)")
        self._call("pauses", _STREAMS[stream], seed, int(probability * 2**32))

    def send(
        self, stream: Literal["act", "wgt"], data: bytes | np.ndarray, *, last: bool = True
    ) -> None:
        """Queue whole beats on an input; `last` puts TLAST on the final one. The data is copied."""
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        flat = np.ascontiguousarray(flat).view(np.uint8).reshape(-1)
        if flat.size % self.stream_bytes:
            raise ValueError(
                f"{flat.size} bytes on s_axis_{stream}; "
                f"it must be whole beats of {self.stream_bytes}"
            )
        self._call("send", _STREAMS[stream], flat.ctypes.data, flat.size, int(last))

    def want(self, nbytes: int) -> None:
        """Accept this many more bytes on m_axis_out (whole beats)."""
        if nbytes % self.stream_bytes:
            raise ValueError(
                f"{nbytes} bytes wanted; it must be whole beats of {self.stream_bytes}"
            )
        self._call("want", nbytes)

    def run(self, max_cycles: int, *, stop_on_interrupt: bool = False) -> bool:
        """Run until all transfers are complete; False when the limit or interrupt came first."""
        return bool(self._call("run", max_cycles, int(stop_on_interrupt)))

    def idle(self, cycles: int, *, stop_on_interrupt: bool = False) -> None:
        """Run a number of cycles, or until the interrupt line is high if asked for."""
        self._call("idle", cycles, int(stop_on_interrupt))

    def beats(self, stream: Stream) -> int:
        """Beats moved on a stream since creation."""
        return int(self._call("beats", _STREAMS[stream]))

    def pending(self, stream: Stream) -> int:
        """Bytes queued and not sent yet, or wanted and not received yet."""
        return int(self._call("pending", _STREAMS[stream]))

    @property
    def available(self) -> int:
        """Received bytes that :meth:`take` can return."""
        return int(self._call("available"))

    def take(self, nbytes: int | None = None) -> np.ndarray:
        """Remove received bytes, oldest first (default: all). uint8."""
        count = self.available if nbytes is None else nbytes
        if count > self.available:
            raise ValueError(f"{count} bytes asked for, {self.available} were received")
        data = np.empty(count, np.uint8)
        self._call("take", data.ctypes.data, count)
        return data

    def lasts(self) -> tuple[int, ...]:
        """Indices of the output beats with TLAST, counted since the last reset or clear_streams."""
        indices = np.empty(self._call("last_count"), np.uint64)
        self._call("lasts", indices.ctypes.data)
        return tuple(int(i) for i in indices)

    def pump(
        self,
        max_cycles: int,
        *,
        act: bytes | np.ndarray = b"",
        wgt: bytes | np.ndarray = b"",
        out_bytes: int = 0,
        stop_on_interrupt: bool = False,
    ) -> PumpResult:
        """Send two frames, collect one: queue everything, then run until done.

        Results not asked for stay in the core. A transfer that is not complete when the limit runs
        out stays queued (see :meth:`clear_streams`).
        """
        if self.available:
            raise ValueError(
                f"{self.available} received bytes are unread; take() them before pump()"
            )
        seen, first, started = len(self.lasts()), self._call("received"), self.cycles
        if len(act):
            self.send("act", act)
        if len(wgt):
            self.send("wgt", wgt)
        if out_bytes:
            self.want(out_bytes)
        done = self.run(max_cycles, stop_on_interrupt=stop_on_interrupt)
        lasts = tuple(i - first for i in self.lasts()[seen:])
        return PumpResult(done, self.cycles - started, self.take(), lasts)
