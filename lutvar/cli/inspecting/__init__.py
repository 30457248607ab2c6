# SPDX-License-Identifier: Apache-2.0
"""What a file of lutvar is, found by its content: kind, format, hashes, sizes, made from what."""

from .dispatch import inspect
from .report import FileReport, InspectError

__all__ = ["FileReport", "InspectError", "inspect"]
