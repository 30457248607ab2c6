# SPDX-License-Identifier: Apache-2.0
"""AXI4 masters: streams of transfers and beats on one side, bursts on the other."""
