# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `pyxrt` with the signatures of its source.

Source: github.com/Xilinx/XRT, src/python/pybind11/src/pyxrt.cpp, commit 963c58ee2244 (20 August
2026). Overloads are one function here that takes what they take, and nothing else. A buffer object
has two sides that only `sync` makes equal, in the range that it names.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from lutvar.sim.golden_device import GoldenDevice

#: As the bindings declare them; `sync` without size and offset synchronises everything.
SIGNATURES = {
    "device": "(index)",
    "xclbin": "(filename)",
    "hw_context": "(device, xclbin)",
    "bo": "(device, size, flags, group)",
    "bo.sync": "(self, dir, size=None, offset=None)",
    "bo.map": "(self)",
    "bo.size": "(self)",
    "bo.address": "(self)",
    "xclbin.get_mems": "(self)",
}


class Mem:
    """`xclbin.xclbinmem`."""

    def __init__(self, tag: str, index: int, used: bool) -> None:
        self._values = tag, index, used

    def get_tag(self) -> str:
        return self._values[0]

    def get_index(self) -> int:
        return self._values[1]

    def get_used(self) -> bool:
        return self._values[2]


def make_pyxrt(chip: GoldenDevice) -> Any:
    """The module, over a device whose memory buffer objects lie in.

    Its `log` has every call of `sync` as (direction, size, offset), `refused` makes `bo` fail,
    `shift` moves buffer objects.
    """
    module: Any = SimpleNamespace(log=[], refused="", shift=0, buffers=[])
    module.mems = [Mem("DDR", 0, True), Mem("LPDDR", 1, True), Mem("PLRAM", 2, False)]

    class xclBOSyncDirection:
        XCL_BO_SYNC_BO_TO_DEVICE = "to"
        XCL_BO_SYNC_BO_FROM_DEVICE = "from"

    class device:
        def __init__(self, index: int) -> None:
            if index:
                raise RuntimeError(f"Could not open device with index '{index}'")

    class xclbin:
        def __init__(self, filename: str) -> None:
            self.filename = filename

        def get_mems(self) -> list[Mem]:
            return list(module.mems)

    class hw_context:
        def __init__(self, device: Any, xclbin: Any) -> None:
            self.xclbin = xclbin

    class bo:
        class flags:
            normal = "normal"
            cacheable = "cacheable"

        def __init__(self, device: Any, size: int, flags: str, group: int) -> None:
            if module.refused:
                raise RuntimeError(module.refused)
            assert flags == "cacheable" and size <= chip.size
            self.group, self._size = group, size
            self._host = np.full(size, 0xEE, np.uint8)  # whatever lay there before
            module.buffers.append(self)

        def sync(self, dir: str, size: int | None = None, offset: int | None = None) -> None:
            assert (size is None) == (offset is None), "there is no such overload"
            first, count = offset or 0, self._size if size is None else size
            module.log.append((dir, size, offset))
            assert 0 <= first <= first + count <= self._size
            part = slice(first, first + count)
            there = chip.memory[module.shift :]
            if dir == "to":
                there[part] = self._host[part]
            else:
                self._host[part] = there[part]

        def map(self) -> memoryview:
            return memoryview(self._host.data)

        def size(self) -> int:
            return self._size

        def address(self) -> int:
            return chip.base + module.shift

    for item in (xclBOSyncDirection, device, xclbin, hw_context, bo):
        setattr(module, item.__name__, item)
    return module
