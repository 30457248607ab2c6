# SPDX-License-Identifier: Apache-2.0
"""The one way to write a file, and the one way to make JSON.

`write_file` puts everything that lutvar writes where the user asked for it: Verilog, manifests,
weights, pictures, pages. The content goes to a hidden file beside the target and is renamed when
it is complete, so a reader, a full disk or Ctrl-C never leaves half a file. A symbolic link stays
one and its target is replaced; a pipe or a character device such as `/dev/null` is written to.

Needs nothing but the standard library, so that every other module can use it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

#: Paths that mean a file that the process has open already.
_OPEN_FILES = re.compile(r"/dev/(?:fd/(\d+)|(stdin|stdout|stderr))|/proc/self/fd/(\d+)")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
#: What to do about the errors that users meet.
_ADVICE = {
    errno.ENOENT: "its folder does not exist; make it first",
    errno.ENOTDIR: "a part of its path is a file; name a folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "the disk is full, nothing was written; free space or choose another disk",
    errno.EDQUOT: "the disk quota is used up, nothing was written; free space",
    errno.EFBIG: "the file is too large for this file system or limit, nothing was written",
    errno.ENAMETOOLONG: "the name is too long; shorten it",
    errno.ELOOP: "its symbolic links lead in a circle; remove them",
    errno.EPIPE: "whoever reads from it has stopped",
}


class OutputError(ValueError):
    """A file or folder that cannot be written; says what is in the way and what to do."""


def write_file(path: str | Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write a file whole or not at all.

    A regular file is replaced by one with the same permissions (and, for root, the same owner);
    its folder must exist, see `prepare_output`. Symbolic links are followed. Character devices and
    pipes are written to as they are.

    Args:
        path: the file.
        content: bytes, pieces of bytes in their order, or text, which is written as UTF-8.

    Raises:
        OutputError: no such folder, no permission, a full disk, or a target that is a folder, a
            block device, a socket or a write-protected file.
    """
    path = Path(path)
    if isinstance(content, str):
        # A path in it may hold bytes that are no text.
        content = content.encode("utf-8", "backslashreplace")
    pieces = (content,) if isinstance(content, bytes) else content
    if _written_through(path):
        _write_through(path, pieces)
    else:
        _replace(path, pieces)


def rendered(save: Callable[[BinaryIO], object]) -> bytes:
    """What a library writes to a file object, for `write_file`."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def prepare_output(path: str | Path) -> None:
    """Make the folder of a file that will be written, and refuse a file that could not be.

    For the start of a long computation: what is certain to fail at its end fails here.

    Raises:
        OutputError: as `write_file`.
    """
    path = Path(path)
    if _written_through(path):
        return
    folder = Path(os.path.realpath(path)).parent
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        _fail(path, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it; nothing happens when it is there.

    Raises:
        OutputError: no permission, or a file is in the way.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{path}: is a file, a folder is needed; choose another name") from None
    except OSError as error:
        _fail(path, error)


def not_a_file(path: Path) -> str:
    """Why a path cannot be read as a file of tensors, for messages; "" when it can be."""
    if path.is_file():
        return ""
    if path.is_dir():
        return "is a folder; name a file"
    return "is no regular file; copy it into one" if path.exists() else "no such file"


def json_text(
    data: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Data as JSON that every reader accepts: numbers that are not finite become null.

    Python's own writer makes `NaN` and `Infinity` of them, which is no JSON.

    Args:
        data: dictionaries, lists, tuples, text, numbers.
        indent, sort_keys, separators, default: as for `json.dumps`.
    """
    return json.dumps(
        finite(data), indent=indent, sort_keys=sort_keys, separators=separators, default=default,
        allow_nan=False,
    )  # fmt: skip


def finite(data: Any) -> Any:
    """The same data with None for every number that is not finite; tuples become lists."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def _written_through(path: Path) -> bool:
    """Whether the target is a pipe or a character device; OutputError when it can be neither."""
    if _OPEN_FILES.fullmatch(os.fspath(path)):
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False  # a new file
    except OSError as error:
        _fail(path, error)
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a folder; name a file in it")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        kind = "a block device" if stat.S_ISBLK(mode) else "a socket"
        raise OutputError(f"{path}: is {kind}; name a file")
    if stat.S_ISREG(mode) and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: is write-protected; choose another name, or chmod u+w")
    return not stat.S_ISREG(mode)


def _write_through(path: Path, pieces: Iterable[bytes]) -> None:
    match = _OPEN_FILES.fullmatch(os.fspath(path))
    try:
        if match:  # opening these again would start at the file's beginning
            number, name, other = match.groups()
            descriptor = os.dup(_STANDARD[name] if name else int(number or other))
        else:
            descriptor = os.open(path, os.O_WRONLY)
    except OSError as error:
        _fail(path, error)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        _pour(path, file, pieces)


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a hidden file beside the target of the path and rename it."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        _fail(path, error)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _pour(path, file, pieces)
            try:
                file.flush()
                os.fsync(descriptor)
                _inherit(target, descriptor)
            except OSError as error:
                _fail(path, error)
        try:
            os.replace(temporary, target)
        except OSError as error:
            _fail(path, error)
    finally:
        temporary.unlink(missing_ok=True)


def _pour(path: Path, file: IO[bytes], pieces: Iterable[bytes]) -> None:
    """Write the pieces. An error of the file is one of the path; one of their source is not."""
    for piece in pieces:
        left = memoryview(piece)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            _fail(path, error)


def _inherit(target: Path, descriptor: int) -> None:
    """Give a new file the permissions of the one that it replaces, and the owner if possible."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(PermissionError):  # not root: the file is the writer's
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _fail(path: str | Path, error: OSError) -> NoReturn:
    what = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0)
    raise OutputError(f"{path}: {what}" + (f": {advice}" if advice else "")) from error


def cache_folder(name: str) -> Path | None:
    """Where work is kept that could be done again: in LUTVAR_CACHE, else the user's cache folder.

    None when LUTVAR_CACHE is empty, or the user has no home: then nothing is kept.
    """
    chosen = os.environ.get("LUTVAR_CACHE")
    if chosen is not None:
        return Path(chosen) / name if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "lutvar" / name
    except RuntimeError:  # a user without a home
        return None
