# SPDX-License-Identifier: Apache-2.0
"""Cases that any Verilog simulator can replay without Python: `lutvar export-vectors`."""
