# SPDX-License-Identifier: Apache-2.0
"""Number formats: description, catalogue, encoding, scales."""

from lutvar.contract.formats.catalog import CATALOG, get_format
from lutvar.contract.formats.spec import HalfGrid, NumberFormat

__all__ = ["CATALOG", "HalfGrid", "NumberFormat", "get_format"]
