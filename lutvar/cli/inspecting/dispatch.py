# SPDX-License-Identifier: Apache-2.0
"""From a path to the reader of its kind of file; the name does not matter, the content does."""

from __future__ import annotations

from pathlib import Path

from lutvar.contract.isa import PROGRAM_MAGIC

from . import documents, folders, hardware, tensors, torch_files
from .report import FileReport, InspectError

_XZ, _ZIP, _PNG = b"\xfd7zXZ\0", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"
_ONNX, _PASS = b"\x08", b'{"format": "lutvar-pass-'
_PROGRAM = PROGRAM_MAGIC.to_bytes(8, "little").rstrip(b"\0")
#: Headers of safetensors are at most 100 MB.
_LARGEST_HEADER = 100_000_000


def inspect(path: Path) -> FileReport:
    """Say what a file or folder is.

    Raises:
        InspectError: missing, not lutvar's, or damaged.
        ModuleNotFoundError: a kind that only torch reads, and torch is not installed.
    """
    if not path.exists():
        raise InspectError(f"{path}: no such file or folder")
    if path.is_dir():
        return folders.inspect_folder(path)
    if not path.is_file():
        raise InspectError(f"{path}: is no regular file; name one that lutvar wrote")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise InspectError(f"{path}: is empty")
    if head.startswith(_XZ):
        return tensors.inspect_compact(path)
    if head.startswith(_ZIP):
        return torch_files.inspect_torch(path)
    if head.startswith(_PNG):
        return documents.inspect_picture(path, head)
    if head.startswith(_PROGRAM):
        return hardware.inspect_program(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return tensors.inspect_tensors(path)
    if head.startswith(b"// lutvar accelerator "):
        return hardware.inspect_verilog(path)
    if head.startswith(_PASS):
        return hardware.inspect_pass(path)
    if head.startswith(_ONNX) and b"latent" in head:
        return documents.inspect_onnx(path)
    if path.name == "run.json":  # it is about the files beside it
        return folders.inspect_folder(path.parent)
    if head.lstrip()[:1] in (b"{", b"["):
        return documents.inspect_json(path)
    page = documents.inspect_page(path, head)
    if page is not None:
        return page
    if (sizes := hardware.inspect_sizes(path)) is not None:
        return sizes
    raise InspectError(
        f"{path}: its first bytes are of no file that lutvar writes; it is something else, or "
        "damaged"
    )
