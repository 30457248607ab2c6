# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `pynq` with the signatures of its source.

Source: github.com/Xilinx/PYNQ, commit 19ed17d4fd4e (29 July 2025, after release 3.1): pynq/
overlay.py, mmio.py, buffer.py and pl_server/xrt_device.py. The mirror at hand had no newer state,
so release 4.0, the first for Versal, was not read. `flush` and `invalidate` synchronise the whole
buffer object, as `XrtDevice.flush` does since release 3.1; with `ranged` they synchronise the slice
that they are called on, as in release 3.0.1. One thing differs from the source: with NumPy 2 its
`PynqBuffer` cannot be made at all.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from lutvar.contract.register_map import BY_NAME
from lutvar.sim.golden_device import GoldenDevice

SIGNATURES = {
    "Overlay": "(bitfile_name, dtbo=None, download=True, ignore_version=False, device=None, "
    "gen_cache=False)",
    "Overlay.download": "(self, dtbo=None)",
    "MMIO": "(base_addr, length=4, device=None, **kwargs)",
    "MMIO.read": "(self, offset=0, length=4, word_order='little')",
    "MMIO.write": "(self, offset, data)",
    "allocate": "(shape, dtype='u4', target=None, **kwargs)",
    "PynqBuffer.flush": "(self)",
    "PynqBuffer.invalidate": "(self)",
    "PynqBuffer.freebuffer": "(self)",
}
CONTROL = 0xA400_0000


class PynqBuffer(np.ndarray[Any, Any]):
    """A buffer; slices know their place in it."""

    device_address: int | None
    coherent: bool | None
    bo: Any
    offset: int
    device: Any = None  # an attribute of the class: since NumPy 2 arrays have a read-only `device`

    def __array_finalize__(self, obj: Any) -> None:
        if isinstance(obj, PynqBuffer) and obj.coherent is not None:
            place = self.__array_interface__["data"][0] - obj.__array_interface__["data"][0]
            assert obj.device_address is not None
            self.coherent, self.device, self.bo = obj.coherent, obj.device, obj.bo
            self.device_address, self.offset = obj.device_address + place, obj.offset + place
        else:
            self.device_address = self.coherent = None

    def flush(self) -> None:
        self.device.flush(self.bo, self.offset, 0, self.nbytes)

    def invalidate(self) -> None:
        self.device.invalidate(self.bo, self.offset, 0, self.nbytes)

    def freebuffer(self) -> None:
        self.device.freed += 1


def make_pynq(chip: GoldenDevice, pyxrt: Any, *, ranged: bool = False) -> Any:
    """The module, over a device and a stand-in for `pyxrt`.

    Attributes of the result: `device`, whose `freed` counts buffers; `overlays` that were made;
    `broken`: what the fabric's manager says to an image.
    """
    banks = {
        "PSDDR": {"used": 1, "base_address": 0, "size": 1 << 31, "idx": 0, "streaming": False},
        "LPDDR": {"used": 1, "base_address": chip.base, "size": 1 << 32, "idx": 1,
                  "streaming": False},
        "hwh_only": {"used": 1, "phys_addr": 0},
        "unused": {"used": 0, "base_address": 1 << 40, "size": 1, "idx": 2, "streaming": False},
    }  # fmt: skip
    module: Any = SimpleNamespace(overlays=[], broken="")

    class Memory:
        def __init__(self, desc: dict[str, Any]) -> None:
            self.desc = desc

    class Device:
        freed, only_psddr = 0, False

        def get_memory(self, description: dict[str, Any]) -> Memory:
            return Memory(description)

        def flush(self, bo: Any, offset: int, ptr: int, size: int) -> None:
            self._sync(bo, "to", size, offset)

        def invalidate(self, bo: Any, offset: int, ptr: int, size: int) -> None:
            self._sync(bo, "from", size, offset)

        def _sync(self, bo: Any, way: str, size: int, offset: int) -> None:
            if ranged:
                pyxrt.buffers[bo].sync(way, size, offset)  # by its handle, through the C interface
            else:
                bo.sync(way)

    module.device = Device()

    class Overlay:
        def __init__(
            self, bitfile_name: str, dtbo: Any = None, download: bool = True,
            ignore_version: bool = False, device: Any = None, gen_cache: bool = False,
        ) -> None:  # fmt: skip
            if not bitfile_name.endswith(".pdi"):
                raise OSError(f"Bitstream file {bitfile_name} does not exist.")
            self.ip_dict = {
                "control": {"phys_addr": 0x1000, "addr_range": 4096},
                "top/accelerator": {"phys_addr": CONTROL, "addr_range": 0x1_0000},
            }
            self.mem_dict, self.device, self.downloaded = banks, module.device, False
            module.overlays.append(self)
            if download:
                self.download()

        def download(self, dtbo: Any = None) -> None:
            if module.broken:
                raise RuntimeError(module.broken)
            self.downloaded = True

    class MMIO:
        def __init__(
            self, base_addr: int, length: int = 4, device: Any = None, **kwargs: Any
        ) -> None:
            assert base_addr == CONTROL and not kwargs
            self.base_addr, self.length = base_addr, length

        def read(self, offset: int = 0, length: int = 4, word_order: str = "little") -> int:
            assert length == 4 and not offset % 4
            if offset == BY_NAME["ISR"].offset:
                chip.wait(100_000)  # between two looks a device does much
            return chip.read32(offset)

        def write(self, offset: int, data: int) -> None:
            if type(data) is not int:  # as the source asks
                raise ValueError("Data type must be int or bytes.")
            chip.write32(offset, data)

    def allocate(shape: Any, dtype: Any = "u4", target: Any = None, **kwargs: Any) -> PynqBuffer:
        assert set(kwargs) <= {"cacheable", "pointer", "cache"}
        (count,) = shape
        size = count * np.dtype(dtype).itemsize
        bo = pyxrt.bo(None, size, "cacheable", target.desc["idx"])
        array = np.frombuffer(bo.map(), dtype).view(PynqBuffer)
        array.device_address, array.coherent = bo.address(), False
        if Device.only_psddr:
            array.device_address = 0x4000_0000
        array.bo = pyxrt.buffers.index(bo) if ranged else bo
        array.offset, array.device = 0, module.device
        return array

    for item in (Overlay, MMIO, allocate, PynqBuffer, Device):
        setattr(module, item.__name__, item)
    return module
