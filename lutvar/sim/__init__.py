# SPDX-License-Identifier: Apache-2.0
"""The accelerator simulated: exported Verilog in Verilator or cocotb, programs, cycle model."""
