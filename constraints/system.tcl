# SPDX-License-Identifier: Apache-2.0
# The VCK190 system: project, block design, synthesis, implementation, device image, XSA.
#
#     python constraints/params.py vck190-fp4 -v build/verilog -o build/vivado --mhz 200
#     vivado -mode batch -source constraints/system.tcl \
#         -tclargs build/vivado/params.tcl build/system
#
# Arguments: params.tcl, project folder (must not hold a project yet), last stage (bd, synth or
# image; default image), jobs (default 2; the whole device in many jobs takes much memory). Exits
# with 1 when a run fails or timing is missed, with 2 for bad arguments. Results lie in
# <folder>/results: reports, lutvar.pdi, lutvar.xsa, summary.txt.

set here [file dirname [file normalize [info script]]]
source [file join $here common.tcl]
source [file join $here block_design.tcl]

if {[llength $argv] < 2} {
    fail "usage: -tclargs PARAMS_TCL PROJECT_DIR ?bd|synth|image? ?JOBS?" 2
}
lassign $argv params out_dir last jobs
if {$last eq ""} { set last image }
if {$jobs eq ""} { set jobs 2 }
if {![file exists $params]} {
    fail "$params does not exist; make it with: python constraints/params.py CONFIG" 2
}
if {$last ni {bd synth image}} { fail "last stage is '$last'; it must be bd, synth or image" 2 }
if {![string is integer -strict $jobs] || $jobs < 1} {
    fail "jobs is '$jobs'; a number from 1 is needed" 2
}
source $params
check_mhz $lutvar(mhz)
set prepared [file dirname [file normalize $params]]
set sources [list [file normalize [file join $prepared $lutvar(verilog)]] \
    [file join $prepared $lutvar(wrapper).v]]
foreach file $sources {
    if {![file exists $file]} { fail "$file does not exist; run params.py again" 2 }
}
set results [file join $out_dir results]
if {[llength [glob -nocomplain -directory $out_dir *.xpr]]} {
    fail "$out_dir holds a project; choose another folder" 2
}
file mkdir $results

# A run ends in a status, never in an error: look.
proc finish_run {run steps} {
    global jobs
    launch_runs $run -jobs $jobs {*}$steps
    wait_on_run $run
    set status [get_property STATUS [get_runs $run]]
    if {![string match *Complete* $status] || [get_property PROGRESS [get_runs $run]] ne "100%"} {
        fail "$run ended as '$status'; see its runme.log"
    }
}

create_project lutvar $out_dir -part $lutvar(part)
set boards [get_board_parts -quiet -latest_file_version $lutvar(board):*]
set board [lindex [lsort -dictionary $boards] end]
if {$board eq ""} {
    fail "no board files for $lutvar(board); install them from Vivado's board store"
}
set_property board_part $board [current_project]
add_files -norecurse $sources
set_property verilog_define $versal_define [current_fileset]
update_compile_order -fileset sources_1

set design lutvar_system
set hertz [build_block_design $design]
set bd [get_files $design.bd]
generate_target all $bd
add_files -norecurse [list [make_wrapper -files $bd -top]]
set_property top ${design}_wrapper [current_fileset]
update_compile_order -fileset sources_1
puts "lutvar: block design complete, PL0 at $hertz Hz"
if {$last eq "bd"} { return }

set_property strategy Flow_PerfOptimized_high [get_runs synth_1]
finish_run synth_1 {}
open_run synth_1
report_stage $results post_synth
close_design
if {$last eq "synth"} { return }

set_property strategy Performance_ExploreWithRemap [get_runs impl_1]
set_property STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED 1 [get_runs impl_1]
finish_run impl_1 {-to_step route_design}
open_run impl_1
report_stage $results post_route
report_routed $results
if {[llength [info commands report_noc_qos]]} {
    report_noc_qos -file [file join $results noc_qos.rpt]
}
lassign [timing_gate $lutvar(mhz) post_route_timing.rpt] setup hold
close_design

# Only a design that meets timing gets an image.
finish_run impl_1 {-to_step write_device_image}
set images [glob -nocomplain -directory [get_property DIRECTORY [get_runs impl_1]] *.pdi]
if {[llength $images] != 1} { fail "one device image was expected, found: $images" }
file copy -force [lindex $images 0] [file join $results lutvar.pdi]
set xsa [file join $results lutvar.xsa]
write_hw_platform -fixed -include_bit -force -file $xsa
validate_hw_platform $xsa

set out [open [file join $results summary.txt] w]
foreach {key value} [list configuration $lutvar(name) hash $lutvar(hash) \
        verilog_sha256 $lutvar(sha256) vivado [version -short] board_part $board \
        clock_hz $hertz setup_slack_ns $setup hold_slack_ns $hold \
        registers $lutvar(control_base) placement $lutvar(placement)] {
    puts $out "$key: $value"
}
close $out
puts "lutvar: image, XSA and summary in $results"
