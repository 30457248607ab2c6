# SPDX-License-Identifier: Apache-2.0
"""The files of a fake board: sysfs and /dev as UIO and u-dma-buf make them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lutvar.host.board.files import MARK
from lutvar.host.board.sysfs import BUFFER_NAME, UIO_NAME
from lutvar.host.transport import Bytes

REGISTERS = 0xA400_0000  #: address of the registers in the block design
APERTURE = 0x1_0000  #: bytes of their map


@dataclass(frozen=True)
class Names:
    """What the devices of a fake board are called.

    Attributes:
        uio, buffer: names in the device tree.
        number: of the UIO device; others, of other names, come before it.
        clock_hz: `clock-frequency` of the device tree node.
        dma_mask: bits of the buffer's DMA mask.
    """

    uio: str = UIO_NAME
    buffer: str = BUFFER_NAME
    number: int = 4
    clock_hz: int = 20_000
    dma_mask: int = 64

    @property
    def node(self) -> str:
        """Of the UIO device."""
        return f"dev/uio{self.number}"

    @property
    def attributes(self) -> tuple[str, str]:
        """Attributes of the buffer that act when they are stored into."""
        folder = f"sys/class/u-dma-buf/{self.buffer}"
        return f"{folder}/sync_for_cpu", f"{folder}/sync_for_device"


def make_tree(root: Path, names: Names, base: int, size: int, address: str) -> Bytes:
    """Make the files under a root; returns the buffer's file, mapped, as the processor sees it.

    Args:
        base, size: of the buffer.
        address: of the board's socket.
    """
    for number in range(names.number + 1):
        folder = root / "sys/class/uio" / f"uio{number}"
        mine = number == names.number
        _put(folder / "name", names.uio if mine else f"other{number}")
        _put(folder / "maps/map0/addr", f"0x{REGISTERS if mine else 0x8000_0000:016x}")
        _put(folder / "maps/map0/size", f"0x{APERTURE:016x}")
        _put(folder / "maps/map0/offset", "0x0")
        _put(root / "dev" / f"uio{number}", None)
    of_node = root / "sys/class/uio" / f"uio{names.number}" / "device/of_node"
    of_node.mkdir(parents=True, exist_ok=True)
    (of_node / "clock-frequency").write_bytes(names.clock_hz.to_bytes(4, "big"))
    buffer = root / "sys/class/u-dma-buf" / names.buffer
    values = {
        "phys_addr": f"0x{base:016x}", "size": str(size), "sync_mode": "1", "dma_coherent": "0",
        "sync_offset": "0x0", "sync_size": str(size), "sync_direction": "0", "sync_owner": "0",
        "sync_for_cpu": "0", "sync_for_device": "0",
    }  # fmt: skip
    for name, value in values.items():
        _put(buffer / name, value)
    # What u-dma-buf tells through an ioctl, which a plain file cannot answer.
    _put(root / "sys/class/u-dma-buf-mask", str(names.dma_mask))
    for place in ("run/lock", "tmp"):
        (root / place).mkdir(parents=True, exist_ok=True)
    with (root / "dev" / names.buffer).open("w+b") as file:
        file.truncate(size)  # a hole: pages that nobody touches take no space
        view = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
    # Last: a tree with this file is complete.
    _put(root / MARK, "\n".join([address, names.node, *names.attributes]))
    return view


def _put(path: Path, text: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if text is None else f"{text}\n", encoding="utf-8")
