# SPDX-License-Identifier: Apache-2.0
"""The gateware, in Amaranth: one folder for each unit, shared parts in `units` and `axi`."""
