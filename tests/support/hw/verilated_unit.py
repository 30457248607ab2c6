# SPDX-License-Identifier: Apache-2.0
"""Test benches of Amaranth's simulator, run on a Verilated unit: some hundred times faster.

Benches are coroutines that use `ctx.set`, `ctx.get`, `await ctx.tick()` with `sample` and
`repeat`, and `async for` over ticks, on ports of the unit or fields of ports.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

from amaranth.hdl import Signal, Value
from amaranth.hdl._ast import Slice
from amaranth.lib import wiring

from lutvar.hw.inspection import for_inspection
from lutvar.hw.verilog import export_verilog
from lutvar.sim.verilator import build

WRAPPER = Path(__file__).with_name("verilated_unit.cpp")
NAME = "lutvar_unit"


def build_unit(unit: wiring.Component, build_dir: Path | str = "build/sim") -> Path:
    """Export and compile a unit; the library is cached by its Verilog."""
    # Verilator writes the second of two underscores as its code.
    ports = ", ".join(f"&top.{name.replace('__', '___05F')}" for name, _ in _ports(unit))
    with tempfile.TemporaryDirectory(prefix="lutvar-unit-") as folder:
        verilog, wrapper = Path(folder, "unit.v"), Path(folder, "wrapper.cpp")
        verilog.write_text(export_verilog(unit, NAME), encoding="utf-8")
        wrapper.write_text(f"#define PORTS {ports}\n{WRAPPER.read_text()}", encoding="utf-8")
        return build(verilog, top=NAME, wrapper=wrapper, build_dir=build_dir, jobs=2)


def _ports(unit: wiring.Component) -> list[tuple[str, Value]]:
    ports = [
        ("__".join(map(str, path)), Value.cast(value))
        for path, _, value in unit.signature.flatten(unit)
    ]
    return [(name, value) for name, value in ports if len(value)] + [("rst", Signal())]


class _Tick:
    """What a coroutine waits for: a number of edges; the samples of the last one are returned."""

    def __init__(self, samples: tuple[Any, ...] = (), count: int = 1) -> None:
        self.samples, self.count = samples, count
        self.values: tuple[int, ...] = ()

    def sample(self, *values: Any) -> _Tick:
        return _Tick((*self.samples, *values), self.count)

    def repeat(self, count: int) -> _Tick:
        return _Tick(self.samples, count)

    def __await__(self) -> Generator[_Tick, None, tuple[Any, ...]]:
        for _ in range(self.count):
            yield self
        return (True, False, *self.values)

    async def __aiter__(self) -> AsyncIterator[tuple[Any, ...]]:
        while True:
            yield await self


class UnitSimulator:
    """A Verilated unit with test benches; the interface of Amaranth's `Simulator`.

    Args:
        unit: the component whose ports the benches name; it need not be the one that was built,
            only equal to it.
        library: what `build_unit` returned.
    """

    def __init__(self, unit: wiring.Component, library: Path) -> None:
        for_inspection(unit)  # elaborated or not: it names the ports
        self._lib = ctypes.CDLL(str(library))
        for name, result in (("create", ctypes.c_void_p), ("port", ctypes.c_void_p)):
            getattr(self._lib, f"lutvar_{name}").restype = result
        self._model = ctypes.c_void_p(self._lib.lutvar_create())
        self._memory: dict[int, Any] = {}
        for number, (name, signal) in enumerate(_ports(unit)):
            address = self._lib.lutvar_port(self._model, ctypes.c_size_t(number))
            width = len(signal)
            size = next((n for n in (1, 2, 4, 8) if width <= 8 * n), -(-width // 32) * 4)
            self._memory[id(signal)] = (ctypes.c_ubyte * size).from_address(address)
            if name == "rst":
                self._reset = self._memory[id(signal)]
        self._keep = _ports(unit)
        self._benches: list[tuple[Callable[[Any], Any], bool]] = []
        self._dirty = True
        self.cycles = 0

    def add_clock(self, period: float) -> None:
        """There is one clock."""

    def add_testbench(self, harness: Callable[[Any], Any], *, background: bool = False) -> None:
        self._benches.append((harness, background))

    def tick(self) -> _Tick:
        return _Tick()

    def _find(self, value: Any) -> tuple[Any, int, int]:
        value = Value.cast(value)
        if isinstance(value, Slice):
            memory, start, _ = self._find(value.value)
            return memory, start + value.start, len(value)
        return self._memory[id(value)], 0, len(value)

    def get(self, value: Any) -> int:
        if self._dirty:
            self._lib.lutvar_eval(self._model)
            self._dirty = False
        memory, start, width = self._find(value)
        return int.from_bytes(memory, "little") >> start & (1 << width) - 1

    def set(self, port: Any, value: int) -> None:
        memory, start, width = self._find(port)
        old = int.from_bytes(memory, "little")
        mask = (1 << width) - 1 << start
        new = old & ~mask | int(value) << start & mask
        if new != old:
            memory[:] = new.to_bytes(len(memory), "little")
            self._dirty = True

    def _clock(self) -> None:
        self._lib.lutvar_clock(self._model)
        self._dirty = False
        self.cycles += 1

    def run(self) -> None:
        """Reset, then run until every testbench that is not in the background has ended."""
        self._reset[0] = 1
        self._clock()
        self._reset[0] = 0
        self._dirty = True
        active: list[list[Any]] = []  # coroutine, whether in the background, what it waits for
        for harness, background in self._benches:
            active.append([harness(self).__await__(), background, None])
        while True:
            for entry in list(active):
                try:
                    entry[2] = next(entry[0])
                except StopIteration:
                    active.remove(entry)
            if all(background for _, background, _ in active):
                break
            for _, _, tick in active:
                tick.values = tuple(self.get(value) for value in tick.samples)
            self._clock()

    def close(self) -> None:
        self._lib.lutvar_destroy(self._model)
