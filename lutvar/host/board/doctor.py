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

from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION
from lutvar.host.errors import HostError

from . import doctor_checks as checks
from .doctor_checks import HINT, OK, UNKNOWN, WRONG, Answer, Board
from .files import Files
from .install import FIRMWARE, MANIFEST, MODELS
from .lock import Lock
from .probe import probe
from .registers import Registers
from .sysfs import UioDevice


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


def _owner(board: Board) -> Answer:
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    try:
        Lock(board.files, board.device.registers, board.device.node.name).release()
    except HostError as error:
        return HINT, str(error), "end it, if it is not yours to wait for"
    except OSError as error:
        return UNKNOWN, str(error), ""
    return OK, "nobody", ""


def _files(board: Board) -> Answer:
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
        try:
            content = board.files.path(FIRMWARE, one).read_bytes()
        except OSError as error:
            return UNKNOWN, f"{one} cannot be read: {error.strerror}", "run as root"
        if hashlib.sha256(content).hexdigest() != sums[one]:
            return WRONG, f"{one} is not the manifest's", "lutvar board install, of one build"
    return OK, f"{len(there)} in /{FIRMWARE}, for {board.installed:016x}", ""


def _identity(board: Board) -> Answer:
    if board.device is None:
        return UNKNOWN, "no UIO device", ""
    try:
        lock = Lock(board.files, board.device.registers, board.device.node.name)
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


def _judge(registers: Registers, board: Board) -> Answer:
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


Check = Callable[[Board], Answer]
#: By name: what one sees, and what looks for the cause.
SYMPTOMS: dict[str, tuple[str, Check]] = {
    "UIO driver": (
        "no /sys/class/uio; `kernel module uio_pdrv_genirq is not loaded`", checks.uio_module,
    ),
    "UIO binding": ("/sys/class/uio is empty although the module is loaded", checks.of_id),
    "u-dma-buf": ("`kernel module u-dma-buf is not loaded`", checks.buffer_module),
    "PL clock": ("the first register access hangs or ends with SIGBUS", checks.clock),
    "fabric": ("fpgautil says success and registers read as another design's", checks.fabric),
    "device": ("`there is no UIO device`", checks.device),
    "device node": ("`permission denied` at /dev/uioN", checks.node),
    "interrupt": ("every pass takes long, warnings of missed interrupts", checks.interrupts),
    "buffer": ("`there is no u-dma-buf device`, or a misaligned base", checks.memory),
    "bank": ("right results at half the speed or less", checks.bank),
    "DMA mask": ("the buffer's driver fails, or its address is cut to 32 bits", checks.mask),
    "buffer node": ("`permission denied` at the buffer or its sync attributes", checks.buffer_node),
    "CMA": ("the buffer's driver finds no memory (dmesg: cma_alloc)", checks.cma),
    "owner": ("`is in use by process N`", _owner),
    "files": ("a loader says success, and something else runs", _files),
    "image": ("`MAGIC is ...`, `HASH_LO is ...`: another image than the host expects", _identity),
    "sensors": ("no power figures", checks.sensors),
}  # fmt: skip


def examine(board: Board) -> list[Line]:
    """All checks, in an order in which each can use what the earlier ones found."""
    lines = []
    for name, (_, check) in SYMPTOMS.items():
        try:
            lines.append(Line(name, *check(board)))
        except (HostError, OSError) as error:  # a file that cannot be read
            lines.append(Line(name, UNKNOWN, str(error)))
    return lines


def symptoms_table() -> str:
    """The table of the page about the board: what one sees, and which line of the doctor tells."""
    rows = [f"| {symptom} | {name} |" for name, (symptom, _) in SYMPTOMS.items()]
    return "\n".join(["| what you see | line of `lutvar doctor --board` |", "|---|---|", *rows])
