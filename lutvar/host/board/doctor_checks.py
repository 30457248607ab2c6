# SPDX-License-Identifier: Apache-2.0
"""Checks of a board's drivers, device nodes and memory, by their files alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import ALIGN
from lutvar.host.errors import HostError

from .files import Files
from .memory_map import parts
from .sysfs import (
    BUFFER_MODULE,
    BUFFER_NAME,
    UIO_MODULE,
    UIO_NAME,
    BufferDevice,
    UioDevice,
    find_buffer,
    find_uio,
    uio_names,
)

OK, WRONG, HINT, UNKNOWN = "ok", "wrong", "hint", "unknown"
#: State, what was found, what to do.
Answer = tuple[str, str, str]
_OF_ID, _CLOCKS = "generic-uio", "clk_ignore_unused"


@dataclass
class Board:
    """What the checks look at.

    Attributes:
        files: of the board.
        uio, buffer: names of the devices.
        config: what the accelerator should be, or None.
        device, memory: what was found so far. installed: hash of the accelerator whose manifest
            lies on the board, or None.
    """

    files: Files
    uio: str = UIO_NAME
    buffer: str = BUFFER_NAME
    config: AcceleratorConfig | None = None
    device: UioDevice | None = None
    memory: BufferDevice | None = None
    installed: int | None = None


def _module(board: Board, name: str) -> bool:
    """Loaded or built in."""
    return board.files.names("sys/module", name.replace("-", "_")) is not None


def uio_module(board: Board) -> Answer:
    """UIO's driver is there."""
    # Built into the kernel it may have no folder of its own; its class of devices shows it too.
    if not _module(board, UIO_MODULE) and board.files.names("sys/class/uio") is None:
        return WRONG, "not loaded", f"modprobe {UIO_MODULE} of_id={_OF_ID}"
    return OK, "loaded", ""


def of_id(board: Board) -> Answer:
    """It was told which nodes are its own."""
    if board.uio in uio_names(board.files):
        return OK, "bound", ""
    given = board.files.text("sys/module", UIO_MODULE, "parameters/of_id")
    words = (board.files.text("proc/cmdline") or "").split()
    if given == _OF_ID or (given is None and f"{UIO_MODULE}.of_id={_OF_ID}" in words):
        return OK, f"of_id={_OF_ID}", ""
    cure = f"kernel argument {UIO_MODULE}.of_id={_OF_ID}, or load the module with of_id={_OF_ID}"
    return WRONG, f"of_id={given or 'not given'}", cure


def buffer_module(board: Board) -> Answer:
    """u-dma-buf is there."""
    if not _module(board, BUFFER_MODULE) and board.files.names("sys/class/u-dma-buf") is None:
        return WRONG, "not loaded", "build github.com/ikwzm/udmabuf for this kernel; insmod it"
    return OK, "loaded", ""


def clock(board: Board) -> Answer:
    """Linux leaves the PL clock on."""
    words = (board.files.text("proc/cmdline") or "").split()
    if _CLOCKS in words:
        return OK, _CLOCKS, ""
    cure = f"kernel argument {_CLOCKS}: no driver claims PL0, and Linux stops unused clocks"
    return HINT, f"no {_CLOCKS} on the command line", cure


def fabric(board: Board) -> Answer:
    """What the loader of the fabric says of itself."""
    try:
        state = board.files.text("sys/class/fpga_manager/fpga0/state")
    except HostError as error:
        return UNKNOWN, str(error), ""
    if state is None:
        return UNKNOWN, "no fpga_manager", "no matter for a fabric that boots with the board"
    if state == "operating":
        return OK, state, ""
    cure = "load the image with fpgautil; a success of that tool proves nothing, this state does"
    if "error" in state:
        return WRONG, state, cure
    return HINT, state, "right for a fabric that boots with the board; else load the image"


def device(board: Board) -> Answer:
    """The UIO device, by name."""
    try:
        board.device = find_uio(board.files, board.uio)
    except HostError as error:
        return WRONG, "none", str(error)
    found = board.device
    return OK, f"{found.node.name}: {found.size} bytes at 0x{found.address:X}", ""


def node(board: Board) -> Answer:
    """Its node may be opened."""
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    return _access(board.device.node)


def _access(path: Any) -> Answer:
    if not path.exists():
        return WRONG, f"{path.name} does not exist", "udev makes it: see its log"
    if not os.access(path, os.R_OK | os.W_OK):
        return WRONG, f"{path.name}: no permission", "run as root, or install the udev rules"
    return OK, f"{path.name} can be opened", ""


def interrupts(board: Board) -> Answer:
    """The kernel has its interrupt."""
    text = board.files.text("proc/interrupts")
    if text is None or board.device is None:
        return UNKNOWN, "not to be seen", ""
    cpus = len(text.split("\n", 1)[0].split())  # the first line names them
    lines = [line for line in text.splitlines() if line.split()[-1:] == [board.uio]]
    if not lines:
        return WRONG, "the kernel has no interrupt for it", "give the node `interrupts`"
    count = sum(int(word) for word in lines[0].split()[1 : 1 + cpus])
    return OK, f"{count} so far", ""


def memory(board: Board) -> Answer:
    """The buffer, by name."""
    try:
        board.memory = find_buffer(board.files, board.buffer)
    except HostError as error:
        return WRONG, "none", str(error)
    found = board.memory
    if found.address % ALIGN:
        cure = f"align its reserved memory to {ALIGN} bytes"
        return WRONG, f"starts at 0x{found.address:X}", cure
    return OK, f"{found.size >> 20:,} MiB at 0x{found.address:X}", ""


def bank(board: Board) -> Answer:
    """Which memory it lies in."""
    if board.memory is None:
        return UNKNOWN, "no buffer", ""
    where = [part.bank for part in parts(board.memory.address, board.memory.size)]
    text = " and ".join(where)
    if any(bank.startswith("LPDDR4") for bank in where):
        return OK, text, ""
    return HINT, text, "weights want the LPDDR4's bandwidth; is the reserved memory the image's?"


def mask(board: Board) -> Answer:
    """Its addresses fit its DMA mask."""
    if board.memory is None:
        return UNKNOWN, "no buffer", ""
    try:
        fd = board.files.open(board.memory.node, os.O_RDWR)
    except (HostError, OSError) as error:
        return UNKNOWN, str(error), ""
    try:
        bits = board.files.dma_mask_bits(fd)
    finally:
        board.files.close(fd)
    end = board.memory.address + board.memory.size
    if bits is None:
        return UNKNOWN, "this u-dma-buf does not tell", ""
    if end > 1 << bits:
        return WRONG, f"{bits} bits, the buffer ends at 0x{end:X}", "dma-mask = <64> in its node"
    return OK, f"{bits} bits", ""


def buffer_node(board: Board) -> Answer:
    """It may be opened, and its caches synchronised."""
    if board.memory is None:
        return UNKNOWN, "no buffer", ""
    state = _access(board.memory.node)
    if state[0] != OK or board.memory.coherent:
        return state
    for name in ("sync_for_cpu", "sync_for_device"):
        path = board.files.path(*board.memory.folder, name)
        if not path.exists():
            return WRONG, f"no {name}", "load a u-dma-buf of version 4 or later"
        if not os.access(path, os.W_OK):
            return WRONG, f"{name}: no permission", "run as root, or install the udev rules"
    return state


def cma(board: Board) -> Answer:
    """Memory that Linux can give in one piece."""
    fields = dict(
        line.split(":", 1) for line in (board.files.text("proc/meminfo") or "").splitlines()
        if ":" in line
    )  # fmt: skip
    total, free = (fields.get(name, "").split()[:1] for name in ("CmaTotal", "CmaFree"))
    if not total or not free:
        return UNKNOWN, "not to be seen", ""
    found = f"{int(free[0]) >> 10} of {int(total[0]) >> 10} MiB free"
    if board.memory is None and not int(total[0]):
        return WRONG, found, "reserve memory in the device tree, or boot with cma="
    return OK, found, ""


def sensors(board: Board) -> Answer:
    """Power can be measured."""
    names = board.files.names("sys/class/hwmon") or []
    kinds = [board.files.text("sys/class/hwmon", name, "name") or "" for name in names]
    found = sum(kind.startswith(("ina226", "ina2xx")) for kind in kinds)
    if not found:
        return HINT, "no INA226", "power cannot be measured: load ina2xx; nodes in the device tree"
    return OK, f"{found} INA226", ""
