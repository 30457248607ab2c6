# SPDX-License-Identifier: Apache-2.0
"""A simulated accelerator with memory behind its AXI4 masters (Verilator, through ctypes)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from lutvar.contract.register_map import READ_PORTS, WRITE_PORTS

from .verilator import build

WRAPPER = Path(__file__).with_name("device.cpp")
Port = Literal["prog", "wgt", "front", "post", "keys", "values", "wgt1", "wgt2", "wgt3"]

_VOID, _INT, _U32, _U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64
#: name in device.cpp without the prefix -> (result, arguments after the handle)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "destroy": (None, ()),
    "cycles": (_U64, ()),
    "interrupt": (_INT, ()),
    "read_ports": (_INT, ()),
    "memory": (_VOID, ()),
    "violations": (_U64, ()),
    "reset": (None, (_U64, _INT)),
    "timing": (None, (_U32, _U32, _U64, _U64, _U64)),
    "pace": (None, (_INT, _INT, _U32, _U32, _U64, _U64)),
    "hold": (None, (_INT, _INT, _U64)),
    "order": (None, (_INT, _INT)),
    "refuse": (None, (_INT, _INT, _U64, _U32)),
    "refused": (_U64, (_INT, _INT)),
    "wrong_last": (None, (_INT, _U64)),
    "segment": (None, (_U64, _U64, _U64)),
    "window": (None, (_U64, _U64)),
    "outside": (_U64, (ctypes.POINTER(_U64),)),
    "valid_in_reset": (_U64, ()),
    "fault": (None, (_INT, _INT, _U64, _U64, _U32)),
    "beats": (_U64, (_INT, _INT)),
    "write": (_INT, (_U32, _U32, _U32, _U64, _U32, _U32, _U32)),
    "read": (_INT, (_U32, ctypes.POINTER(_U32), _U64, _U32, _U32)),
    "run": (_INT, (_U64,)),
    "idle": (None, (_U64,)),
    "trace": (None, (_INT,)),
    "trace_count": (_U64, ()),
    "trace_take": (None, (_VOID,)),
}


class SimulationTimeout(RuntimeError):
    """The device did not answer on its control port within the cycle limit."""


@dataclass(frozen=True)
class MemoryTiming:
    """How the simulated memory behaves; cycles of the device's clock.

    Attributes:
        latency: smallest and largest number of cycles from a burst's address to its first beat,
            drawn for each burst; 25 to 75 is 100 to 300 ns at 250 MHz.
        stall: probability that a channel rests in a cycle.
        bandwidth: bytes in a cycle that all ports share, or None.
        seed: of the draws.
    """

    latency: tuple[int, int] = (25, 75)
    stall: float = 0.0
    bandwidth: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        low, high = self.latency
        if not 0 <= low <= high:
            raise ValueError(f"latency is {self.latency}; it must be (smallest, largest) from 0")
        if not 0 <= self.stall < 1:
            raise ValueError(f"stall is {self.stall}; it must be in [0, 1)")
        if self.bandwidth is not None and self.bandwidth < 1:
            raise ValueError(f"bandwidth is {self.bandwidth}; it must be at least 1 or None")


BUS_LIMIT = 1000  #: cycles to wait for an answer on the control port


class VerilatedDevice:
    """One simulated accelerator.

    Args:
        library: what `lutvar.sim.verilator.build` returned for the wrapper `device.cpp`.
        memory_bytes: size of the memory, addresses from 0; other addresses answer DECERR.
        timing: of the memory.
        plusarg: for `$value$plusargs` in the Verilog, as in "+name=7".
    """

    def __init__(
        self,
        library: Path | str,
        memory_bytes: int,
        *,
        timing: MemoryTiming | None = None,
        plusarg: str = "",
    ) -> None:
        self._library = ctypes.CDLL(str(Path(library).absolute()))
        create = self._library.lutvar_create
        create.restype, create.argtypes = _VOID, (_U64, ctypes.c_char_p)
        self._calls: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, f"lutvar_{name}")
            function.restype, function.argtypes = result, (_VOID, *arguments)
            self._calls[name] = function
        self._handle: int | None = create(memory_bytes, plusarg.encode())
        raw = (ctypes.c_uint8 * memory_bytes).from_address(self.call("memory"))
        #: The memory itself, uint8 [memory_bytes]; valid until `close`.
        self.memory: NDArray[np.uint8] = np.ctypeslib.as_array(raw)
        self.set_timing(timing or MemoryTiming())
        self.reset()

    @classmethod
    def from_verilog(
        cls,
        verilog: Path | str,
        memory_bytes: int,
        *,
        build_dir: Path | str = "build/sim",
        timing: MemoryTiming | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Build the model (or find it in the cache) and open it."""
        library = build(verilog, wrapper=WRAPPER, build_dir=build_dir, progress=progress)
        return cls(library, memory_bytes, timing=timing)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call `lutvar_<name>` of device.cpp, for what has no method of its own."""
        if self._handle is None:
            raise ValueError("this simulation is closed; open a new VerilatedDevice")
        return self._calls[name](self._handle, *arguments)

    def _index(self, port: Port, write: bool) -> int:
        built = READ_PORTS[: self.call("read_ports")]
        if port not in built or (write and port not in WRITE_PORTS):
            raise ValueError(f"there is no {'write' if write else 'read'} port {port!r}")
        return built.index(port)

    def close(self) -> None:
        """Free model and memory. Closing twice is harmless."""
        if self._handle is not None:
            self.memory = np.empty(0, np.uint8)
            self._calls["destroy"](self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def cycles(self) -> int:
        """Clock cycles since creation."""
        return int(self.call("cycles"))

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt line."""
        return bool(self.call("interrupt"))

    @property
    def violations(self) -> int:
        """How often an AXI rule was broken.

        A burst unaligned or across 4 KiB, a wrong WLAST, an offer that changed before it was taken.
        """
        return int(self.call("violations"))

    def set_timing(self, timing: MemoryTiming) -> None:
        """Change how the memory behaves from now on."""
        low, high = timing.latency
        self.call(
            "timing", low, high, int(timing.stall * 2**32), timing.bandwidth or 0, timing.seed
        )

    def inject_error(
        self, port: Port, first: int, last: int, *, write: bool = False, response: int = 2
    ) -> None:
        """Answer bursts of a port that touch the addresses first..last with an error response."""
        self.call("fault", self._index(port, write), int(write), first, last, response)

    def clear_error(self, port: Port, *, write: bool = False) -> None:
        """Undo `inject_error`."""
        self.call("fault", self._index(port, write), int(write), (1 << 64) - 1, 0, 0)

    def beats(self, port: Port, *, write: bool = False) -> int:
        """Beats of 64 bytes moved on a port since creation."""
        return int(self.call("beats", self._index(port, write), int(write)))

    def reset(self, cycles: int = 8, *, keep: bool = False) -> None:
        """Hold ap_rst_n low for some cycles; memory keeps its contents.

        Args:
            cycles: length of the pulse.
            keep: the memory is not reset: it goes on answering the bursts under way.
        """
        self.call("reset", cycles, int(keep))

    def reg_write(
        self, offset: int, value: int, strobe: int = 0xF, late: tuple[int, int, int] = (0, 0, 0)
    ) -> int:
        """Write a word through AXI4-Lite. Returns the response: 0 is OKAY, 2 is SLVERR.

        late: cycles that AWVALID, WVALID and BREADY come late.
        """
        response = self.call("write", offset, value & 0xFFFFFFFF, strobe, BUS_LIMIT, *late)
        if response < 0:
            raise SimulationTimeout(f"no answer to a write to 0x{offset:03X} in {BUS_LIMIT} cycles")
        return int(response)

    def reg_read(self, offset: int, late: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Read a word through AXI4-Lite. Returns (value, response).

        late: cycles that ARVALID and RREADY come late.
        """
        value = _U32()
        response = self.call("read", offset, ctypes.byref(value), BUS_LIMIT, *late)
        if response < 0:
            raise SimulationTimeout(f"no answer to a read of 0x{offset:03X} in {BUS_LIMIT} cycles")
        return value.value, int(response)

    def run(self, max_cycles: int) -> bool:
        """Run until the interrupt line is high; False when the limit came first."""
        return bool(self.call("run", max_cycles))

    def idle(self, cycles: int) -> None:
        """Run a number of cycles."""
        self.call("idle", cycles)

    def start_trace(self) -> None:
        """Record when units become busy or active, from now on."""
        self.call("trace", 1)

    def take_trace(self) -> NDArray[np.uint64]:
        """Stop recording; [n, 3]: cycle, busy bits, active bits by unit, one row per change."""
        records = np.empty((self.call("trace_count"), 3), np.uint64)
        self.call("trace_take", records.ctypes.data)
        self.call("trace", 0)
        return records
