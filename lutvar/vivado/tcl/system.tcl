# SPDX-License-Identifier: Apache-2.0
# The VCK190 system: project, block design, synthesis, implementation, device image, XSA. From a
# folder that `lutvar vivado` wrote, `make -C DIR` is the same as
#
#     vivado -mode batch -source tcl/system.tcl -tclargs params.tcl build
#
# Arguments: params.tcl, project folder (must not hold a project yet), last stage (bd, synth or
# image; default image), jobs (default 2; the whole device in many jobs takes much memory). Exits
# with 1 when a run fails, timing is missed or the NoC cannot give what was asked for, with 2 for
# bad arguments. Results lie in <folder>/results: reports, device images, XSA, hardware handoff,
# address map, device tree, summary.txt, manifest.json.

set here [file dirname [file normalize [info script]]]
source [file join $here common.tcl]
source [file join $here block_design.tcl]
source [file join $here results.tcl]

if {[llength $argv] < 2} {
    fail "usage: -tclargs PARAMS_TCL PROJECT_DIR ?bd|synth|image? ?JOBS?" 2
}
lassign $argv params out_dir last jobs
if {$last eq ""} { set last image }
if {$jobs eq ""} { set jobs 2 }
if {![file exists $params]} {
    fail "$params does not exist; make it with: lutvar vivado CONFIG -o DIR" 2
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
    if {![file exists $file]} { fail "$file does not exist; run lutvar vivado again" 2 }
}
set results [file join $out_dir results]
if {[llength [glob -nocomplain -directory $out_dir *.xpr]]} {
    fail "$out_dir holds a project; choose another folder, or delete it (make clean)" 2
}
if {$lutvar(segmented) && [compare_vivado [version -short] 2025.1] < 0} {
    fail "a segmented configuration needs Vivado 2025.1, this is [version -short]" 2
}
check_surroundings
file mkdir $results

# A run ends in a status, never in an error: look. `goal` is a pattern of the step that was to end.
proc finish_run {run goal steps} {
    global jobs
    launch_runs $run -jobs $jobs {*}$steps
    wait_on_run $run
    set status [get_property STATUS [get_runs $run]]
    if {![string match "$goal Complete*" $status]} {
        fail "$run ended as '$status'; see runme.log in\
            [get_property DIRECTORY [get_runs $run]]. If it was killed, the machine has too little\
            memory: take fewer jobs"
    }
}

create_project lutvar $out_dir -part $lutvar(part)
set boards [get_board_parts -quiet -latest_file_version $lutvar(board):*]
set board [lindex [lsort -dictionary $boards] end]
if {$board eq ""} {
    fail "no board files for $lutvar(board); install them from Vivado's board store:\
        xhub::refresh_catalog \[xhub::get_xstores xilinx_board_store\];\
        xhub::install \[xhub::get_xitems *vck190*\]"
}
set_property board_part $board [current_project]
if {$lutvar(segmented)} { set_property segmented_configuration true [current_project] }
add_files -norecurse $sources
set_property verilog_define $versal_define [current_fileset]
update_compile_order -fileset sources_1

set design lutvar_system
set hertz [build_block_design $design]
write_address_map [file join $results addresses.csv]
set bd [get_files $design.bd]
# With the rest of the design: out of context the accelerator would be a black box here, and the
# strategy below would miss it.
set_property synth_checkpoint_mode None $bd
generate_target all $bd
add_files -norecurse [list [make_wrapper -files $bd -top]]
set_property top ${design}_wrapper [current_fileset]
update_compile_order -fileset sources_1
puts "lutvar: block design complete, PL0 at $hertz Hz"
if {$last eq "bd"} { return }

set_property strategy Flow_PerfOptimized_high [get_runs synth_1]
finish_run synth_1 synth_design {}
open_run synth_1
report_stage $results post_synth
close_design
if {$last eq "synth"} { return }

# All steps that change the design come before the reports and the gate: the image must be of the
# design that was judged.
set_property strategy Performance_ExploreWithRemap [get_runs impl_1]
set_property STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED 1 [get_runs impl_1]
finish_run impl_1 "*phys_opt_design*" {-to_step post_route_phys_opt_design}
set log [file join [get_property DIRECTORY [get_runs impl_1]] runme.log]
open_run impl_1
report_stage $results post_route
report_routed $results
report_noc $results $log
lassign [timing_gate $lutvar(mhz) post_route_timing.rpt] setup hold
close_design

# Only a design that meets timing gets an image.
finish_run impl_1 write_device_image {-to_step write_device_image}
set directory [get_property DIRECTORY [get_runs impl_1]]
set images [collect_images $directory $results $lutvar(segmented)]
set xsa [file join $results lutvar.xsa]
write_hw_platform -fixed -include_bit -force -file $xsa
validate_hw_platform $xsa
set handoff [collect_handoff $out_dir $design $results]
set tree [file join $prepared $lutvar(device_tree)]
if {[file exists $tree]} {
    write_device_tree $tree [file join $results $lutvar(device_tree)] $hertz
}

write_summary $results [list format lutvar-build-1 configuration $lutvar(name) accelerator_hash $lutvar(hash) \
    verilog_sha256 $lutvar(sha256) vivado [version -short] board_part $board \
    clock_hz $hertz setup_slack_ns $setup hold_slack_ns $hold \
    registers $lutvar(control_base) placement $lutvar(placement) \
    segmented $lutvar(segmented)] \
    [concat $images lutvar.xsa $handoff addresses.csv $lutvar(device_tree)]
puts "lutvar: image, XSA and summary in $results"
