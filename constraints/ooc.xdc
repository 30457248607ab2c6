# SPDX-License-Identifier: Apache-2.0
# Clock of the accelerator when it is implemented out of context. ooc.tcl sets lutvar_period_ns.
# In the block design the clock comes from CIPS and this file is not used; the accelerator has no
# pins of its own, and the memories' pins come with the board's interfaces.
create_clock -name ap_clk -period $lutvar_period_ns [get_ports ap_clk]
# The network-on-chip's ports are registered; leave them a third of the period on each side.
set lutvar_io_ns [expr {$lutvar_period_ns / 3.0}]
set_input_delay  -clock ap_clk $lutvar_io_ns [get_ports -filter {DIRECTION == IN && NAME != ap_clk}]
set_output_delay -clock ap_clk $lutvar_io_ns [get_ports -filter {DIRECTION == OUT}]
