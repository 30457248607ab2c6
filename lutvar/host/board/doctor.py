# SPDX-License-Identifier: Apache-2.0
"""Why a board does not work: every line of the table of symptoms, looked up in its files.

Nothing here starts a program on the accelerator; the registers are read only to see what it is, and
only when nobody else has it. The root of the files is a parameter, so that made-up trees are told
from sound ones in tests. Never tried on a board.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import ALIGN
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION
from lutvar.host.errors import HostError

from .files import Files
from .install import FIRMWARE, MANIFEST, MODELS
from .lock import Lock
from .memory_map import parts
from .probe import probe
from .registers import Registers
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
_OF_ID, _CLOCKS = "generic-uio", "clk_ignore_unused"


@dataclass(frozen=True)
class Line:
    """One check.

    Attributes:
        check: its name in `SYMPTOMS`.
        state: "ok"; "wrong": it cannot work so; "hint": it may; "unknown": not to be seen.
        found: what is there.
        cure: what to do, "" if nothing.
    """

    check: str
    state: str
    found: str
    cure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


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


def _uio_module(board: Board) -> tuple[str, str, str]:
    # Built into the kernel it may have no folder of its own; its class of devices shows it too.
    if not _module(board, UIO_MODULE) and board.files.names("sys/class/uio") is None:
        return WRONG, "not loaded", f"modprobe {UIO_MODULE} of_id={_OF_ID}"
    return OK, "loaded", ""


def _of_id(board: Board) -> tuple[str, str, str]:
    if board.uio in uio_names(board.files):
        return OK, "bound", ""
    given = board.files.text("sys/module", UIO_MODULE, "parameters/of_id")
    words = (board.files.text("proc/cmdline") or "").split()
    if given == _OF_ID or (given is None and f"{UIO_MODULE}.of_id={_OF_ID}" in words):
        return OK, f"of_id={_OF_ID}", ""
    cure = f"kernel argument {UIO_MODULE}.of_id={_OF_ID}, or load the module with of_id={_OF_ID}"
    return WRONG, f"of_id={given or 'not given'}", cure


def _buffer_module(board: Board) -> tuple[str, str, str]:
    if not _module(board, BUFFER_MODULE) and board.files.names("sys/class/u-dma-buf") is None:
        return WRONG, "not loaded", "build github.com/ikwzm/udmabuf for this kernel; insmod it"
    return OK, "loaded", ""


def _clock(board: Board) -> tuple[str, str, str]:
    words = (board.files.text("proc/cmdline") or "").split()
    if _CLOCKS in words:
        return OK, _CLOCKS, ""
    cure = f"kernel argument {_CLOCKS}: no driver claims PL0, and Linux stops unused clocks"
    return HINT, f"no {_CLOCKS} on the command line", cure


def _fabric(board: Board) -> tuple[str, str, str]:
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


def _device(board: Board) -> tuple[str, str, str]:
    try:
        board.device = find_uio(board.files, board.uio)
    except HostError as error:
        return WRONG, "none", str(error)
    found = board.device
    return OK, f"{found.node.name}: {found.size} bytes at 0x{found.address:X}", ""


def _node(board: Board) -> tuple[str, str, str]:
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    return _access(board.device.node)


def _access(path: Any) -> tuple[str, str, str]:
    if not path.exists():
        return WRONG, f"{path.name} does not exist", "udev makes it: see its log"
    if not os.access(path, os.R_OK | os.W_OK):
        return WRONG, f"{path.name}: no permission", "run as root, or install the udev rules"
    return OK, f"{path.name} can be opened", ""


def _interrupts(board: Board) -> tuple[str, str, str]:
    text = board.files.text("proc/interrupts")
    if text is None or board.device is None:
        return UNKNOWN, "not to be seen", ""
    cpus = len(text.split("\n", 1)[0].split())  # the first line names them
    lines = [line for line in text.splitlines() if line.split()[-1:] == [board.uio]]
    if not lines:
        return WRONG, "the kernel has no interrupt for it", "give the node `interrupts`"
    count = sum(int(word) for word in lines[0].split()[1 : 1 + cpus])
    return OK, f"{count} so far", ""


def _memory(board: Board) -> tuple[str, str, str]:
    try:
        board.memory = find_buffer(board.files, board.buffer)
    except HostError as error:
        return WRONG, "none", str(error)
    found = board.memory
    if found.address % ALIGN:
        cure = f"align its reserved memory to {ALIGN} bytes"
        return WRONG, f"starts at 0x{found.address:X}", cure
    return OK, f"{found.size >> 20:,} MiB at 0x{found.address:X}", ""


def _bank(board: Board) -> tuple[str, str, str]:
    if board.memory is None:
        return UNKNOWN, "no buffer", ""
    where = [part.bank for part in parts(board.memory.address, board.memory.size)]
    text = " and ".join(where)
    if any(bank.startswith("LPDDR4") for bank in where):
        return OK, text, ""
    return HINT, text, "weights want the LPDDR4's bandwidth; is the reserved memory the image's?"


def _mask(board: Board) -> tuple[str, str, str]:
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


def _buffer_node(board: Board) -> tuple[str, str, str]:
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


def _cma(board: Board) -> tuple[str, str, str]:
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


def _owner(board: Board) -> tuple[str, str, str]:
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    try:
        Lock(board.files, board.device.node.name).release()
    except HostError as error:
        return HINT, str(error), "end it, if it is not yours to wait for"
    except OSError as error:
        return UNKNOWN, str(error), ""
    return OK, "nobody", ""


def _files(board: Board) -> tuple[str, str, str]:
    """What `lutvar board install` has laid out: the hash of the image that should run."""
    name = f"/{MODELS}/{MANIFEST}"
    try:
        data = json.loads(board.files.path(MODELS, MANIFEST).read_text(encoding="utf-8"))
        board.installed = int(data["accelerator_hash"], 16)
        sums = dict(data["files"])
    except FileNotFoundError:
        return UNKNOWN, f"no {name}", ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return WRONG, f"{name}: {error!r}", "lutvar board install"
    there = [n for n in sums if board.files.path(FIRMWARE, n).is_file()]
    for one in there:
        digest = hashlib.sha256(board.files.path(FIRMWARE, one).read_bytes()).hexdigest()
        if digest != sums[one]:
            return WRONG, f"{one} is not the manifest's", "lutvar board install, of one build"
    return OK, f"{len(there)} in /{FIRMWARE}, for {board.installed:016x}", ""


def _identity(board: Board) -> tuple[str, str, str]:
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    try:
        lock = Lock(board.files, board.device.node.name)
    except (HostError, OSError):
        return UNKNOWN, "not read: another process has it", ""
    try:
        with _mapped(board.files, board.device) as registers:
            return _judge(registers, board)
    except (HostError, OSError) as error:
        return WRONG, "not readable", str(error)
    finally:
        lock.release()


@contextmanager
def _mapped(files: Files, device: UioDevice) -> Iterator[Registers]:
    """Registers of a UIO device, after a first access that may fail in a child process."""
    with ExitStack() as opened:
        fd = files.open(device.node, os.O_RDWR | os.O_SYNC)
        opened.callback(files.close, fd)
        page = os.sysconf("SC_PAGE_SIZE")
        words = files.words(fd, -(-(device.offset + device.size) // page) * page, 0, device.offset)
        opened.callback(words.release)
        probe(words, device.node.name)
        yield Registers(words, device.size)


def _judge(registers: Registers, board: Board) -> tuple[str, str, str]:
    magic, version, low, high = (
        registers.read(BY_NAME[n].offset) for n in ("MAGIC", "VERSION", "HASH_LO", "HASH_HI")
    )
    if magic != MAGIC:
        cure = "the address in the device tree is not the block design's, or another image runs"
        return WRONG, f"MAGIC 0x{magic:08X}, not 0x{MAGIC:08X}", cure
    if version != VERSION:
        cure = "gateware and host differ in version; use matching releases"
        return WRONG, f"contract {version >> 16}.{version & 0xFFFF}", cure
    found, config = high << 32 | low, board.config
    name, right = "installed", board.installed
    if config is not None:
        name, right = config.name, accelerator_hash(config)
    if right is None:
        return OK, f"configuration {found:016x} (none was named to compare with)", ""
    if right != found:
        return WRONG, f"configuration {found:016x}", f"load the image of {name}: {right:016x}"
    return OK, f"configuration {found:016x}, {name}", ""


def _sensors(board: Board) -> tuple[str, str, str]:
    names = board.files.names("sys/class/hwmon") or []
    kinds = [board.files.text("sys/class/hwmon", name, "name") or "" for name in names]
    found = sum(kind.startswith(("ina226", "ina2xx")) for kind in kinds)
    if not found:
        return HINT, "no INA226", "power cannot be measured: load ina2xx; nodes in the device tree"
    return OK, f"{found} INA226", ""


Check = Callable[[Board], tuple[str, str, str]]
#: By name: what one sees, and what looks for the cause.
SYMPTOMS: dict[str, tuple[str, Check]] = {
    "UIO driver": ("no /sys/class/uio; `kernel module uio_pdrv_genirq is not loaded`", _uio_module),
    "UIO binding": ("/sys/class/uio is empty although the module is loaded", _of_id),
    "u-dma-buf": ("`kernel module u-dma-buf is not loaded`", _buffer_module),
    "PL clock": ("the first register access hangs or ends with SIGBUS", _clock),
    "fabric": ("fpgautil says success and registers read as another design's", _fabric),
    "device": ("`there is no UIO device`", _device),
    "device node": ("`permission denied` at /dev/uioN", _node),
    "interrupt": ("every pass takes long, warnings of missed interrupts", _interrupts),
    "buffer": ("`there is no u-dma-buf device`, or a misaligned base", _memory),
    "bank": ("right results at half the speed or less", _bank),
    "DMA mask": ("the buffer's driver fails, or its address is cut to 32 bits", _mask),
    "buffer node": ("`permission denied` at the buffer or its sync attributes", _buffer_node),
    "CMA": ("the buffer's driver finds no memory (dmesg: cma_alloc)", _cma),
    "owner": ("`is in use by process N`", _owner),
    "files": ("a loader says success, and something else runs", _files),
    "image": ("`MAGIC is ...`, `HASH_LO is ...`: another image than the host expects", _identity),
    "sensors": ("no power figures", _sensors),
}  # fmt: skip


def examine(board: Board) -> list[Line]:
    """All checks, in an order in which each can use what the earlier ones found."""
    lines = []
    for name, (_, check) in SYMPTOMS.items():
        try:
            lines.append(Line(name, *check(board)))
        except HostError as error:  # a file that may not be read
            lines.append(Line(name, UNKNOWN, str(error)))
    return lines


def symptoms_table() -> str:
    """The table of the page about the board: what one sees, and which line of the doctor tells."""
    rows = [f"| {symptom} | {name} |" for name, (symptom, _) in SYMPTOMS.items()]
    return "\n".join(["| what you see | line of `lutvar doctor --board` |", "|---|---|", *rows])
