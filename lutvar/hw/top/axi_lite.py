# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite slave; see :mod:`lutvar.hw.axi.lite`."""

from lutvar.hw.axi.lite import OKAY, SLVERR, AxiLite, AxiLiteSignature, RegisterBusSignature

__all__ = ["OKAY", "SLVERR", "AxiLite", "AxiLiteSignature", "RegisterBusSignature"]
