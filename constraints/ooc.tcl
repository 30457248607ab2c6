# SPDX-License-Identifier: Apache-2.0
# Out-of-context synthesis and implementation of an exported lutvar core for the VCK190:
#
#     lutvar verilog small-fp4 -o build/verilog
#     vivado -mode batch -source constraints/ooc.tcl -tclargs build/verilog/small-fp4.v build/ooc 200
#
# Arguments: Verilog file, report folder, clock in MHz (default 200). Non-project flow; every stage leaves a
# checkpoint and reports; the script exits with 1 when the routed design misses timing.

if {[llength $argv] < 2} {
    puts stderr "error: usage: -tclargs VERILOG OUT_DIR ?MHZ?"
    exit 2
}
lassign $argv verilog out_dir mhz
if {$mhz eq ""} { set mhz 200 }
if {![file exists $verilog]} {
    puts stderr "error: $verilog does not exist; make it with: lutvar verilog CONFIG -o DIR"
    exit 2
}
if {![string is double -strict $mhz] || $mhz <= 0} {
    puts stderr "error: clock is '$mhz'; a frequency in MHz above 0 is needed"
    exit 2
}

set part xcvc1902-vsva2197-2MP-e-S
set top lutvar_top
set here [file dirname [file normalize [info script]]]
file mkdir $out_dir

# The constraint file reads this variable.
set lutvar_period_ns [format %.3f [expr {1000.0 / $mhz}]]

read_verilog $verilog
read_xdc -unmanaged -mode out_of_context [file join $here vck190_ooc.xdc]

synth_design -mode out_of_context -top $top -part $part -flatten_hierarchy rebuilt
write_checkpoint -force [file join $out_dir post_synth.dcp]
report_utilization -hierarchical -file [file join $out_dir post_synth_utilization.rpt]
report_design_analysis -logic_level_distribution -file [file join $out_dir post_synth_levels.rpt]

opt_design
place_design
phys_opt_design
route_design
write_checkpoint -force [file join $out_dir post_route.dcp]
report_utilization -hierarchical -file [file join $out_dir post_route_utilization.rpt]
report_timing_summary -delay_type min_max -max_paths 10 -file [file join $out_dir post_route_timing.rpt]
report_design_analysis -logic_level_distribution -file [file join $out_dir post_route_levels.rpt]
report_control_sets -verbose -file [file join $out_dir post_route_control_sets.rpt]
report_methodology -file [file join $out_dir post_route_methodology.rpt]
report_drc -file [file join $out_dir post_route_drc.rpt]

# A run that misses timing must not look like a success.
foreach {kind delay} {setup max hold min} {
    set paths [get_timing_paths -delay_type $delay -max_paths 1]
    if {[llength $paths] == 0} {
        puts stderr "error: no $kind path was analysed; is ap_clk constrained?"
        exit 1
    }
    set slack [get_property SLACK [lindex $paths 0]]
    puts "lutvar: routed $kind slack $slack ns at $mhz MHz"
    if {$slack < 0} {
        puts stderr "error: $kind slack is $slack ns at $mhz MHz; see post_route_timing.rpt"
        exit 1
    }
}
