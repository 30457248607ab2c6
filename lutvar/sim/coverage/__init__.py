# SPDX-License-Identifier: Apache-2.0
"""Which lines, signals, states and instruction fields of the Verilog the simulations move."""
