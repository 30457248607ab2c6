# SPDX-License-Identifier: Apache-2.0
"""What the caller's environment gives simulators and Yosys: variables, compiler, paths, cores.

A shell may carry the settings of another cocotb project, the flags of a surrounding make, or a
compiler with a launcher; a package may lie in a folder whose name make cannot spell; and a
container may have a home that cannot be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Variables that steer cocotb, make and Python, and belong to whoever called: a filter would drop
#: testbenches in silence, PYTHONOPTIMIZE their assertions, and flags of an outer make would run
#: nothing at all (-n) or wait for its job server.
_FOREIGN = re.compile(
    r"COCOTB_.*|P?Y?GPI_.*|LIBPYTHON_LOC|MODULE|TESTCASE|TOPLEVEL(_LANG)?|RANDOM_SEED|PLUSARGS"
    r"|WAVES|GUI|PYTHONOPTIMIZE|PYTHONINSPECT"
    r"|MAKEFLAGS|GNUMAKEFLAGS|MAKEOVERRIDES|MAKEFILES|MAKELEVEL|MFLAGS"
)
#: Microseconds of processor time in each period, of the group of processes that this one is in.
_CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")
#: What a path may consist of to pass through make, its shell and C preprocessor options unquoted.
_PLAIN = re.compile(r"[\w./@+,=-]+")


def tool_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables without those of other projects, and with `changes`."""
    variables = {k: v for k, v in os.environ.items() if not _FOREIGN.fullmatch(k)}
    return {**variables, **cache_variables(), **(changes or {})}


def cache_variables() -> dict[str, str]:
    """A cache folder for Yosys's WebAssembly, if the usual one cannot be written."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    try:
        usual.mkdir(parents=True, exist_ok=True)
    except OSError:
        writable = False
    else:
        writable = os.access(usual, os.W_OK | os.X_OK)
    return {} if writable else {"XDG_CACHE_HOME": str(_private_folder() / "cache")}


@contextlib.contextmanager
def writable_cache() -> Iterator[None]:
    """`cache_variables` in this process, for a library that passes its variables on."""
    before, changes = dict(os.environ), cache_variables()
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def cores() -> int:
    """How many processors this process may keep busy: how many of it to start by default.

    In a container that is fewer than the machine has, by its set of processors or by its share of
    their time.
    """
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # "max 100000" is no limit
        quota, period = _CPU_SHARE.read_text(encoding="ascii").split()
        count = min(count, -(-int(quota) // int(period)))
    return max(count, 1)


def _private_folder() -> Path:
    """This user's folder below the temporary one; PermissionError if it belongs to another."""
    folder = Path(tempfile.gettempdir()).resolve() / f"lutvar-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; delete it, or set TMPDIR")
    return folder


def compiler_command() -> list[str]:
    """The C++ compiler as words: `CXX` may hold a launcher and flags, as in `ccache g++`."""
    text = os.environ.get("CXX", "").strip()
    try:
        return shlex.split(text) or ["g++"]
    except ValueError:  # a quotation mark without its partner: no compiler can be meant
        return [text]


def compiler_path() -> str | None:
    """Where the compiler (or its launcher) is, when make is there as well."""
    return shutil.which(compiler_command()[0]) if shutil.which("make") else None


def make_flags(variables: Mapping[str, str]) -> str:
    """A value of MAKEFLAGS that sets variables in every make, spaces and dollars included."""
    # A dollar is halved twice: when MAKEFLAGS is read, and where the variable is used.
    escape = str.maketrans({"\\": "\\\\", " ": "\\ ", "$": "$$$$"})
    return " ".join(f"{name}={value.translate(escape)}" for name, value in variables.items())


def compiler_variables() -> dict[str, str]:
    """The make variables that name the compiler in Verilator's makefiles."""
    command = shlex.join(compiler_command())
    return {"CXX": command, "LINK": command}


def plain_path(path: Path, folders: Sequence[Path]) -> Path:
    """The path itself, or a link to it whose own path make can spell.

    Args:
        path: existing file or folder.
        folders: where the link may go; the first one with a plain path, else the temporary folder.
    """
    path = path.absolute()
    if _PLAIN.fullmatch(str(path)):
        return path
    usable = (f for f in folders if _PLAIN.fullmatch(str(f.absolute())))
    folder = next(usable, None) or _private_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    link = folder / re.sub(r"[^\w.-]", "_", name)
    if not link.is_symlink() or os.readlink(link) != str(path):
        partial = folder / f".{link.name}.{os.getpid()}"
        partial.unlink(missing_ok=True)
        partial.symlink_to(path)
        partial.replace(link)
    return link


def spaceless_folder(folder: Path) -> Path:
    """The folder itself, or, for make that works in none with spaces, a private one instead."""
    folder = folder.absolute()
    if not re.search(r"\s", str(folder)):
        return folder
    private = _private_folder() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    private.mkdir(exist_ok=True)
    return private
