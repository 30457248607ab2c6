# SPDX-License-Identifier: Apache-2.0
# What ooc.tcl and system.tcl share: errors, hints, reports, and gates that a failed run cannot pass.

# Makes configurations with `float32: dsp58` take the DSP58 of the device, not its model.
set versal_define LUTVAR_DSP58=1
# Releases for which the scripts were written.
set oldest_vivado 2023.1
set newest_vivado 2025.2

proc fail {message {code 1}} {
    puts stderr "error: $message"
    exit $code
}
proc note {message} { puts stderr "note: $message" }

# Compares two releases as `package vcompare` does; 2024.1.2 is one of 2024.1's.
proc compare_vivado {a b} {
    foreach name {a b} {
        if {![regexp {^\d+\.\d+} [set $name] $name]} { set $name 0.0 }
    }
    return [package vcompare $a $b]
}

# What has cost others a day, said before the hours of a run and not after.
proc check_surroundings {} {
    global oldest_vivado newest_vivado env
    set release [version -short]
    if {[compare_vivado $release $oldest_vivado] < 0
            || [compare_vivado $release $newest_vivado] > 0} {
        note "these scripts are for Vivado $oldest_vivado to $newest_vivado, this is $release"
    }
    foreach name {C_INCLUDE_PATH CPATH LIBRARY_PATH} {
        if {[info exists env($name)] && ![string match /usr/include* $env($name)]} {
            note "$name is set; the memory controllers' generator runs a compiler that obeys it.\
                When *_ddrmc.elf is missing later, unset it"
        }
    }
    if {[file readable /proc/meminfo]} {
        set in [open /proc/meminfo]
        set text [read $in]
        close $in
        if {[regexp {MemTotal:\s+(\d+) kB} $text -> kilobytes] && $kilobytes < 30000000} {
            note "this machine has [expr {$kilobytes / 1048576}] GiB of memory; plan 32 GiB, and\
                take one job: runs that the kernel kills end as errors of Vivado"
        }
    }
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
    report_utilization -file ${prefix}_utilization.rpt
    report_utilization -hierarchical -file ${prefix}_hierarchy.rpt
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
    report_pulse_width -file ${prefix}_pulse_width.rpt
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

# The figures of the summary's only table row: what they are -> ns, or NA.
proc timing_summary {} {
    set names {WNS TNS setup_failing setup_endpoints WHS THS hold_failing hold_endpoints
        WPWS TPWS pulse_failing pulse_endpoints}
    set lines [split [report_timing_summary -no_detailed_paths -return_string] \n]
    set head [lsearch -regexp $lines {^\s*WNS\(ns\)\s}]
    set row [expr {$head < 0 ? {} : [regexp -inline -all {\S+} [lindex $lines $head+2]]}]
    if {[llength $row] != [llength $names]} {
        fail "the timing summary has no row of [llength $names] figures; this Vivado writes it\
            otherwise, so nothing can be said about timing"
    }
    foreach name $names value $row { dict set found $name $value }
    return $found
}

# A run that misses timing or is not wholly routed must not look like a success. Returns
# {setup hold} in ns.
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
    # All clocks and kinds of paths, pulse widths too.
    set summary [timing_summary]
    foreach {name kind} {WNS setup WHS hold WPWS {pulse width} TPWS {total pulse width}} {
        set slack [dict get $summary $name]
        if {[string is double -strict $slack] ? $slack < 0 : $name in {WNS WHS}} {
            fail "$kind slack ($name) is $slack ns at $mhz MHz; see $report"
        }
    }
    set status [report_route_status -return_string]
    if {![regexp {nets with routing errors[. ]*:\s*(\d+)} $status -> errors]} {
        fail "the route status names no number of nets with routing errors"
    }
    if {$errors != 0} { fail "$errors nets have routing errors; see post_route_status.rpt" }
    return $found
}
