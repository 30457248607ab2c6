# SPDX-License-Identifier: Apache-2.0
"""cocotb benches that run on the exported Verilog, in any simulator that cocotb drives."""
