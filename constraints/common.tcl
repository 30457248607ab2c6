# SPDX-License-Identifier: Apache-2.0
# What ooc.tcl and system.tcl share: errors, reports, and gates that a failed run cannot pass.

# Makes configurations with `float32: dsp58` take the DSP58 of the device, not its model.
set versal_define LUTVAR_DSP58=1

proc fail {message {code 1}} {
    puts stderr "error: $message"
    exit $code
}

# A frequency in MHz from a command line.
proc check_mhz {mhz} {
    if {![string is double -strict $mhz] || $mhz <= 0} {
        fail "clock is '$mhz'; a frequency in MHz above 0 is needed" 2
    }
}

# Reports of one stage of the open design.
proc report_stage {dir stage} {
    set prefix [file join $dir $stage]
    report_utilization -hierarchical -file ${prefix}_utilization.rpt
    report_ram_utilization -file ${prefix}_ram.rpt
    report_timing_summary -delay_type min_max -max_paths 10 -file ${prefix}_timing.rpt
    report_design_analysis -logic_level_distribution -file ${prefix}_levels.rpt
    report_high_fanout_nets -timing -max_nets 50 -file ${prefix}_fanout.rpt
    slack_histogram ${prefix}_slack_histogram.txt
}

# Reports that need a routed design.
proc report_routed {dir} {
    set prefix [file join $dir post_route]
    report_route_status -file ${prefix}_status.rpt
    report_clock_utilization -file ${prefix}_clocks.rpt
    report_design_analysis -congestion -file ${prefix}_congestion.rpt
    report_control_sets -verbose -file ${prefix}_control_sets.rpt
    report_methodology -file ${prefix}_methodology.rpt
    report_qor_assessment -file ${prefix}_qor.rpt
    report_power -file ${prefix}_power.rpt
    report_drc -file ${prefix}_drc.rpt
}

# Setup slack of the worst endpoints in steps of 0.1 ns: one critical path, or a whole slope.
proc slack_histogram {file {endpoints 10000}} {
    set counts [dict create]
    foreach path [get_timing_paths -delay_type max -max_paths $endpoints -nworst 1] {
        set slack [get_property SLACK $path]
        if {[string is double -strict $slack]} {
            dict incr counts [expr {int(floor($slack * 10))}]
        }
    }
    set out [open $file w]
    puts $out "setup slack from (ns)  endpoints, of the worst $endpoints"
    foreach bin [lsort -integer [dict keys $counts]] {
        puts $out [format "%20.1f  %9d" [expr {$bin / 10.0}] [dict get $counts $bin]]
    }
    close $out
}

# A run that misses timing must not look like a success. Returns {setup hold} in ns.
proc timing_gate {mhz report} {
    set found {}
    foreach {kind delay} {setup max hold min} {
        set paths [get_timing_paths -delay_type $delay -max_paths 1]
        if {[llength $paths] == 0} {
            fail "no $kind path was analysed; is the clock constrained?"
        }
        set slack [get_property SLACK [lindex $paths 0]]
        puts "lutvar: routed $kind slack $slack ns at $mhz MHz"
        if {![string is double -strict $slack] || $slack < 0} {
            fail "$kind slack is $slack ns at $mhz MHz; see $report"
        }
        lappend found $slack
    }
    return $found
}
