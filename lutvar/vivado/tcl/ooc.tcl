# SPDX-License-Identifier: Apache-2.0
# Out-of-context synthesis and implementation of the exported accelerator for the VCK190:
#
#     lutvar verilog vck190-fp4 -o build/verilog
#     vivado -mode batch -source constraints/ooc.tcl \
#         -tclargs build/verilog/vck190-fp4.v build/ooc 200
#
# Arguments: Verilog file, report folder, clock in MHz (default 200), last stage (synth or route,
# default route). Non-project flow; every stage leaves a checkpoint and reports; the script exits
# with 1 when the routed design misses timing, with 2 for bad arguments.

source [file join [file dirname [file normalize [info script]]] common.tcl]

if {[llength $argv] < 2} {
    fail "usage: -tclargs VERILOG OUT_DIR ?MHZ? ?synth|route?" 2
}
lassign $argv verilog out_dir mhz last
if {$mhz eq ""} { set mhz 200 }
if {$last eq ""} { set last route }
if {![file exists $verilog]} {
    fail "$verilog does not exist; make it with: lutvar verilog CONFIG -o DIR" 2
}
check_mhz $mhz
if {$last ni {synth route}} {
    fail "last stage is '$last'; it must be synth or route" 2
}

# The export's first module is its top; the configuration's name is in it.
set channel [open $verilog]
while {[gets $channel line] >= 0 && ![regexp {^\s*module\s+(\w+)} $line match top]} {}
close $channel
if {![info exists top]} {
    fail "$verilog has no module; make it with: lutvar verilog CONFIG -o DIR" 2
}
check_surroundings

set part xcvc1902-vsva2197-2MP-e-S
file mkdir $out_dir

# A constraint file with numbers in it: Tcl variables in an XDC are not read everywhere (AMD answer
# record 45751). Of the block design nothing of this holds: its clock comes from CIPS, its memories'
# pins with the board's interfaces. The network-on-chip's ports are registered; they leave a third
# of the period on each side.
proc write_constraints {file mhz} {
    set period [format %.3f [expr {1000.0 / $mhz}]]
    set edge [format %.3f [expr {$period / 3.0}]]
    set inputs {[get_ports -filter {DIRECTION == IN && NAME != ap_clk}]}
    set outputs {[get_ports -filter {DIRECTION == OUT}]}
    set out [open $file w]
    puts $out "# Written by ooc.tcl for $mhz MHz."
    puts $out "create_clock -name ap_clk -period $period \[get_ports ap_clk\]"
    puts $out "set_input_delay -clock ap_clk $edge $inputs"
    puts $out "set_output_delay -clock ap_clk $edge $outputs"
    close $out
}
set constraints [file join $out_dir ooc.xdc]
write_constraints $constraints $mhz

# Both take lists of files: a path with a space is a list of one.
read_verilog [list $verilog]
read_xdc -mode out_of_context [list $constraints]

synth_design -mode out_of_context -top $top -part $part -flatten_hierarchy rebuilt \
    -verilog_define $versal_define
write_checkpoint -force [file join $out_dir post_synth.dcp]
report_stage $out_dir post_synth
if {$last eq "synth"} { return }

# With the clock's buffer placed, its skew is part of the analysis.
set buffers [get_sites -quiet -filter {SITE_TYPE =~ BUFG_PS*}]
if {[llength $buffers]} {
    set_property HD.CLK_SRC [lindex $buffers 0] [get_ports ap_clk]
}
opt_design
place_design
phys_opt_design
write_checkpoint -force [file join $out_dir post_place.dcp]
report_stage $out_dir post_place

route_design
phys_opt_design
write_checkpoint -force [file join $out_dir post_route.dcp]
report_stage $out_dir post_route
report_routed $out_dir
timing_gate $mhz post_route_timing.rpt
