# SPDX-License-Identifier: Apache-2.0
"""Devices by name in sysfs: numbers such as the 0 of /dev/uio0 change from boot to boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import ModuleMissing, NoDevice, UnusableBuffer
from .files import Files

UIO_NAME = "lutvar"  #: `linux,uio-name` of the device tree fragment
BUFFER_NAME = "lutvar-buffer"  #: `device-name` of it
UIO_MODULE, BUFFER_MODULE = "uio_pdrv_genirq", "u-dma-buf"


@dataclass(frozen=True)
class UioDevice:
    """A UIO device and its first map.

    Attributes:
        name: in the device tree. node: such as /dev/uio4.
        address: of the mapping's first page, as the processor sees it.
        size: bytes of the registers. offset: of the first one in that page.
        clock_hz: `clock-frequency` of the device tree node, or None.
    """

    name: str
    node: Path
    address: int
    size: int
    offset: int
    clock_hz: int | None

    @property
    def registers(self) -> int:
        """Address of the first register, as the processor sees it."""
        return self.address + self.offset


@dataclass(frozen=True)
class BufferDevice:
    """A u-dma-buf device.

    Attributes:
        name: in /dev. node: its path. folder: of its attributes, under /sys.
        address: of the memory, as the device sees it. size: its bytes.
        coherent: hardware keeps caches and memory equal; nothing has to be synchronised.
    """

    name: str
    node: Path
    folder: tuple[str, ...]
    address: int
    size: int
    coherent: bool


def uio_names(files: Files) -> dict[str, list[str]]:
    """Names of UIO devices -> their numbers' names ("uio4"). Empty without UIO."""
    result: dict[str, list[str]] = {}
    for number in files.names("sys/class/uio") or []:
        name = files.text("sys/class/uio", number, "name")
        if name is not None:
            result.setdefault(name, []).append(number)
    return result


def buffer_names(files: Files) -> list[str]:
    """Names of u-dma-buf devices. Empty without the module."""
    return files.names("sys/class/u-dma-buf") or []


def find_uio(files: Files, name: str) -> UioDevice:
    """The UIO device of that name.

    Raises:
        ModuleMissing: no UIO at all.
        NoDevice: none, or several, of that name.
    """
    if files.names("sys/class/uio") is None:
        raise ModuleMissing(
            UIO_MODULE, f"run: modprobe {UIO_MODULE} of_id=generic-uio (or give the kernel "
            f"{UIO_MODULE}.of_id=generic-uio)",
        )  # fmt: skip
    names = uio_names(files)
    numbers = names.get(name, [])
    if not numbers:
        advice = (
            "give one of these names as uio:NAME, or load the device tree fragment of this image"
            if names
            else f"the device tree has no node for {UIO_MODULE}, or the module was loaded without "
            "of_id=generic-uio"
        )
        raise NoDevice("UIO device", name, sorted(names), advice)
    if len(numbers) > 1:
        raise NoDevice("one UIO device", name, numbers, "their device tree nodes need other names")
    (number,) = numbers
    where = ("sys/class/uio", number)
    for region in files.names(*where, "maps") or []:
        values = [_integer(files, *where, "maps", region, key) for key in ("addr", "size")]
        offset = _integer(files, *where, "maps", region, "offset") or 0
        if values[0] is not None and values[1]:
            clock = files.path(*where, "device/of_node/clock-frequency")
            hertz = int.from_bytes(clock.read_bytes()[:4], "big") if clock.is_file() else None
            node = files.path("dev", number)
            return UioDevice(name, node, values[0], values[1], offset, hertz or None)
        break  # only the first map has the registers
    raise NoDevice(
        "register map of UIO device", name, [], "its device tree node needs a `reg` property"
    )


def find_buffer(files: Files, name: str) -> BufferDevice:
    """The u-dma-buf device of that name.

    Raises:
        ModuleMissing: the module is not loaded.
        NoDevice: no such buffer.
        UnusableBuffer: attributes that make no sense.
    """
    if files.names("sys/class/u-dma-buf") is None:
        raise ModuleMissing(
            BUFFER_MODULE,
            "build it from github.com/ikwzm/udmabuf for this kernel and run: insmod u-dma-buf.ko",
        )
    names = buffer_names(files)
    if name not in names:
        raise NoDevice(
            "u-dma-buf device", name, names,
            "give one of these as buffer=NAME; none: the device tree fragment is not loaded, or "
            "its reserved memory is too small (dmesg says why)",
        )  # fmt: skip
    folder = ("sys/class/u-dma-buf", name)
    address, size = (_integer(files, *folder, key) for key in ("phys_addr", "size"))
    if address is None or not size:
        raise UnusableBuffer(
            f"u-dma-buf device {name!r} has no phys_addr or size; load a u-dma-buf of version 4 or "
            "later"
        )
    coherent = files.text(*folder, "dma_coherent") == "1"
    return BufferDevice(name, files.path("dev", name), folder, address, size, coherent)


def _integer(files: Files, *parts: str) -> int | None:
    text = files.text(*parts)
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None
