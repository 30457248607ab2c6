# SPDX-License-Identifier: Apache-2.0
"""Register file; see :mod:`lutvar.hw.axi.register_file`."""

from lutvar.hw.axi.register_file import RegisterFile, writable_bits

__all__ = ["RegisterFile", "writable_bits"]
