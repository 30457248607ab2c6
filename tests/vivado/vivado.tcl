# SPDX-License-Identifier: Apache-2.0
# Stand-in for Vivado's commands: a small model of a block design. It refuses pins that a cell does
# not have, double connections and open ends, and prints what was set. Anything else is an error.
#
# Before sourcing: array stub with version; slack (ns), pulse (ns of pulse widths, or NA),
# route_errors; hertz (of PL0 at the pin, "" until validation when `late` is 1), act_mhz (of PL0 in
# the processing system's configuration); status (of runs; empty: that of their last step), noc_mc
# (LPDDR4 controllers found), stubborn (a property of noc_lpddr4 that keeps another value), window
# (1: the memories' addresses are as on the board), exclude (1: segments can be excluded), relaxed
# (where the NoC compiler relaxes bandwidths: no, bd or impl), images (of a build), handoff (1: one
# is generated), runs (folder);
# integrity (what is wrong with an IP).

set cells [dict create]      ;# name -> type
set reference [dict create]  ;# name -> wrapper's text
set properties [dict create] ;# object -> property -> value
set linked [dict create]     ;# pin or interface -> other end
set source_files {}

proc plain {name} { proc $name {args} [format {puts [list %s {*}$args]} $name] }
foreach name {
    synth_design write_checkpoint report_utilization report_design_analysis opt_design
    place_design phys_opt_design route_design report_control_sets
    report_methodology report_drc report_ram_utilization report_high_fanout_nets
    report_clock_utilization report_qor_assessment report_power report_pulse_width
    create_clock set_input_delay set_output_delay update_compile_order
    save_bd_design wait_on_run close_design validate_hw_platform
} { plain $name }
proc at_least {release} { expr {[package vcompare $::stub(version) $release] >= 0} }
if {[at_least 2025.1]} { plain report_noc_qos }
if {[at_least 2024.1]} { plain write_noc_solution; plain validate_noc }
proc report_timing_summary {args} {
    if {"-return_string" ni $args} { puts [list report_timing_summary {*}$args]; return }
    set slack $::stub(slack)
    set row [list $slack 0.000 0 90 $slack 0.000 0 90 $::stub(pulse) 0.000 0 40]
    return "Design Timing Summary\n| ---\n\n    WNS(ns)      TNS(ns)  TNS Failing Endpoints\n\
        \    -------      -------  ---------------------\n      [join $row {   }]  \n\n"
}
proc report_route_status {args} {
    if {"-return_string" ni $args} { puts [list report_route_status {*}$args]; return }
    return "   # of nets with routing errors.......... :           $::stub(route_errors) :\n"
}
proc get_msg_config {id_flag id count_flag} {
    if {$id ne "Ipconfig 75-4216"} { error "the stub does not know message $id" }
    return [expr {$::stub(relaxed) eq "bd"}]
}
# Both take lists of files.
proc read_verilog {files} {
    foreach file $files { if {![file exists $file]} { error "file '$file' does not exist" } }
    puts [list read_verilog {*}$files]
}
proc read_xdc {args} {
    foreach file [lindex $args end] { uplevel #0 [list source $file] }
}
proc get_ports {args} { return [list port [lindex $args end]] }
proc get_sites {args} { return {BUFG_PS_X0Y0 BUFG_PS_X0Y1} }
proc get_timing_paths {args} { return path }
proc version {args} { return $::stub(version) }

proc create_project {name dir args} {
    puts [list create_project $name {*}$args]
    file mkdir $dir
    set ::project_folder $dir
    close [open [file join $dir $name.xpr] w]
}
proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc current_bd_design {} { return design }
proc create_bd_design {name} { puts [list create_bd_design $name] }
proc get_board_parts {args} {
    return [list [string map {* 3.3} [lindex $args end]] [string map {* 3.10} [lindex $args end]]]
}
proc get_files {name} { return $name }
proc get_runs {name} { return $name }
proc make_wrapper {args} { return wrapper.v }
proc add_files {args} {
    global source_files
    lappend source_files {*}[lindex $args end]
}
proc write_hw_platform {args} {
    puts [list write_hw_platform {*}$args]
    close [open [lindex $args end] w]
}

proc create_bd_cell {kind_flag kind what_flag what name} {
    global cells reference source_files
    if {[dict exists $cells $name]} { error "cell $name exists" }
    if {$kind eq "module"} {
        foreach file $source_files {
            if {[file rootname [file tail $file]] ne $what} { continue }
            set in [open $file]
            dict set reference $name [read $in]
            close $in
        }
        if {![dict exists $reference $name]} { error "no module $what among the sources" }
        dict set cells $name module
    } else {
        dict set cells $name [lindex [split $what :] 2]
    }
    puts [list cell $name $kind $what]
    return $name
}
proc get_bd_cells {name} {
    if {![dict exists $::cells $name]} { error "no cell $name" }
    return $name
}
proc config {cell name {default 0}} {
    global properties
    if {[dict exists $properties $cell CONFIG.$name]} {
        return [dict get $properties $cell CONFIG.$name]
    }
    return $default
}
proc numbered {kind count end} {
    set found {}
    for {set i 0} {$i < $count} {incr i} { lappend found [format %s%02d%s $kind $i $end] }
    return $found
}

# {interfaces pins} of a cell.
proc terminals {cell} {
    switch [dict get $::cells $cell] {
        versal_cips {
            set ps [config $cell PS_PMC_CONFIG {}]
            set interfaces FIXED_IO
            set pins {}
            foreach {key names clocks} {
                PS_USE_FPD_CCI_NOC {FPD_CCI_NOC_0 FPD_CCI_NOC_1 FPD_CCI_NOC_2 FPD_CCI_NOC_3}
                {fpd_cci_noc_axi0_clk fpd_cci_noc_axi1_clk fpd_cci_noc_axi2_clk
                 fpd_cci_noc_axi3_clk}
                PS_USE_NOC_LPD_AXI0 LPD_AXI_NOC_0 lpd_axi_noc_clk
                PMC_USE_PMC_NOC_AXI0 PMC_NOC_AXI_0 pmc_axi_noc_axi0_clk
                PS_USE_M_AXI_FPD M_AXI_FPD m_axi_fpd_aclk
                PS_USE_PMCPL_CLK0 {} pl0_ref_clk
                PS_NUM_FABRIC_RESETS {} pl0_resetn
            } {
                if {[dict exists $ps $key] && [dict get $ps $key]} {
                    lappend interfaces {*}$names
                    lappend pins {*}$clocks
                }
            }
            set channels {}
            if {[dict exists $ps PS_IRQ_USAGE]} { set channels [dict get $ps PS_IRQ_USAGE] }
            foreach channel $channels {
                if {![lindex $channel 1]} { continue }
                lappend pins pl_ps_irq[string range [lindex $channel 0] 2 end]
            }
            return [list $interfaces $pins]
        }
        axi_noc {
            set pins {}
            for {set i 0} {$i < [config $cell NUM_CLKS 1]} {incr i} { lappend pins aclk$i }
            return [list [concat [numbered S [config $cell NUM_SI 1] _AXI] \
                [numbered M [config $cell NUM_NMI] _INI] \
                [numbered S [config $cell NUM_NSI] _INI]] $pins]
        }
        smartconnect {
            return [list [concat [numbered S [config $cell NUM_SI 1] _AXI] \
                [numbered M [config $cell NUM_MI 1] _AXI]] {aclk aresetn}]
        }
        proc_sys_reset { return {{} {slowest_sync_clk ext_reset_in peripheral_aresetn}} }
        module {
            set text [dict get $::reference $cell]
            set interfaces {}
            foreach {- name} [regexp -all -inline {interface:aximm:1.0 (\w+) } $text] {
                if {$name ni $interfaces} { lappend interfaces $name }
            }
            return [list $interfaces {ap_clk ap_rst_n interrupt}]
        }
        default { error "the stub does not know [dict get $::cells $cell]" }
    }
}
proc find_pin {which args} {
    set path [string trimleft [lindex $args end] /]
    lassign [split $path /] cell pin
    if {[dict exists $::cells $cell] && $pin in [lindex [terminals $cell] $which]} { return $path }
    if {"-quiet" in $args} { return {} }
    error "there is no pin $path"
}
proc get_bd_intf_pins {args} { find_pin 0 {*}$args }
proc get_bd_pins {args} { find_pin 1 {*}$args }

proc apply_board_connection {a interface b pin c diagram} {
    lassign [split $pin /] cell name
    get_bd_cells $cell
    dict set ::properties $cell BOARD.$name $interface
    puts [list board $pin $interface]
}
proc set_property {args} {
    set object [lindex $args end]
    if {$object eq ""} { error "set_property on nothing: $args" }
    set pairs [expr {[lindex $args 0] eq "-dict" ? [lindex $args 1] : [lrange $args 0 1]}]
    foreach {name value} $pairs {
        if {[string equal -nocase $name segmented_configuration] && ![at_least 2025.1]} {
            error "there is no property $name"
        }
        if {"$object/$name" eq "noc_lpddr4/CONFIG.$::stub(stubborn)"} { set value other }
        dict set ::properties $object $name $value
        puts [list property $object $name $value]
    }
}
proc get_property {name object} {
    global stub properties
    switch -glob $name {
        SLACK { return $stub(slack) }
        STATUS { return [expr {$stub(status) eq "" ? $::statuses($object) : $stub(status)}] }
        PROGRESS { return 100% }
        CONFIG.NUM_MC { return $stub(noc_mc) }
        CONFIG.PS_PMC_CONFIG {
            set config [dict get $properties $object $name]
            if {$stub(act_mhz) ne ""} {
                dict set config PMC_CRP_PL0_REF_CTRL_ACT_FREQMHZ $stub(act_mhz)
            }
            return $config
        }
        OFFSET - RANGE {
            # A pseudo segment: space, address, bytes.
            return [lindex $object [expr {$name eq "OFFSET" ? 1 : 2}]]
        }
        DIRECTORY { return $stub(runs) }
        CONFIG.FREQ_HZ { return [expr {$stub(late) && !$::validated ? "" : $stub(hertz)}] }
        default { return [dict get $properties $object $name] }
    }
}
proc link {a b} {
    global linked
    dict lappend linked $a $b
    dict lappend linked $b $a
    puts [list connect $a $b]
}
proc connect_bd_intf_net {a b} {
    foreach pin [list $a $b] {
        if {[dict exists $::linked $pin]} { error "interface $pin is connected twice" }
    }
    link $a $b
}
proc connect_bd_net {source sink} {
    if {[dict exists $::linked $sink]} { error "pin $sink has two drivers" }
    link $source $sink
}

proc get_bd_addr_spaces {path} { get_bd_intf_pins $path }
proc get_bd_addr_segs {args} {
    if {[lindex $args 0] ne "-of_objects"} { return [lindex $args end] }
    set space [lindex $args end]
    set found [list [list $space 0x0 2G] [list $space 0x800000000 0x180000000]]
    if {$::stub(window)} { lappend found [list $space 0x50000000000 8G] }
    return [lmap segment $found {
        if {$segment in $::excluded} { continue }
        set segment
    }]
}
set excluded {}
proc exclude_bd_addr_seg {segment} {
    if {$::stub(exclude)} { lappend ::excluded $segment }
    puts [list exclude_bd_addr_seg $segment]
}
proc assign_bd_address {args} {
    puts [list assign_bd_address {*}$args]
    if {[lindex $args 0] eq "-export_to_file"} { close [open [lindex $args 1] w] }
}

# What validate_bd_design would complain about.
proc validate_bd_design {} {
    global cells properties linked
    dict for {cell type} $cells {
        lassign [terminals $cell] interfaces pins
        foreach name [concat $interfaces $pins] {
            if {$name in {FIXED_IO peripheral_aresetn}} { continue }
            if {![dict exists $linked $cell/$name]} { error "$cell/$name is open" }
        }
        if {$type ne "axi_noc"} { continue }
        set owners {}
        foreach pin $pins {
            lappend owners {*}[split [dict get $properties $cell/$pin CONFIG.ASSOCIATED_BUSIF] :]
        }
        foreach name $interfaces {
            if {[string match *_AXI $name]
                    && [llength [lsearch -all -exact $owners $name]] != 1} {
                error "$cell/$name belongs to [llength [lsearch -all $owners $name]] clocks"
            }
            if {[string match M*_INI $name]} { continue }
            dict for {target share} [dict get $properties $cell/$name CONFIG.CONNECTIONS] {
                if {[regexp {^MC_(\d)$} $target -> port]} {
                    if {$port >= [config $cell NUM_MCP]} { error "no port $target" }
                } elseif {$target ni $interfaces} {
                    error "$cell/$name goes to $target, which is not there"
                }
                if {[dict get $share read_bw] < 0} { error "negative bandwidth" }
            }
        }
    }
    set ::validated 1
    puts valid
}
set validated 0

# Packaging.
namespace eval ipx {
    foreach name {create_xgui_files update_checksums save_core} {
        proc $name {args} [format {puts [list ipx::%s {*}$args]} $name]
    }
    proc open_core {file} {
        if {![file exists $file]} { error "no core $file" }
        puts [list ipx::open_core $file]
        return core
    }
    proc check_integrity {flag core} {
        if {$::stub(integrity) ne ""} { error $::stub(integrity) }
        puts [list ipx::check_integrity $flag $core]
    }
}
proc package_xo {args} {
    puts [list package_xo {*}$args]
    close [open [dict get [lrange $args 1 end] -xo_path] w]
}

# Runs. A launch does the steps up to the one named that have not been done; what it did is compared
# with what the reports saw when an image is made.
set steps {opt_design place_design phys_opt_design route_design post_route_phys_opt_design
    write_device_image}
set done {}
array set statuses {}
proc generate_target {what bd} {
    global properties stub project_folder
    puts [list generate_target $what $bd]
    # As Vivado does unless told otherwise: a run of its own for each cell, a black box for the top.
    if {![dict exists $properties $bd synth_checkpoint_mode]
            || [dict get $properties $bd synth_checkpoint_mode] ne "None"} {
        puts "black box accelerator"
    }
    if {!$stub(handoff)} { return }
    set folder [file join $project_folder lutvar.gen sources_1 bd lutvar_system hw_handoff]
    file mkdir $folder
    close [open [file join $folder lutvar_system.hwh] w]
}
proc open_run {run} {
    puts [list open_run $run]
    set ::judged $::done
}
proc launch_runs {run args} {
    global stub steps done judged properties statuses
    puts [list launch_runs $run {*}$args]
    file mkdir $stub(runs)
    set log [open [file join $stub(runs) runme.log] w]
    if {$stub(relaxed) eq "impl"} {
        puts $log {CRITICAL WARNING: [Ipconfig 75-4216] A NoC solution that meets the requested ...}
    }
    close $log
    if {$run eq "synth_1"} { set statuses($run) "synth_design Complete!"; return }
    set target [dict get $args -to_step]
    if {$target ni $steps} { error "no step $target" }
    set changed {}
    foreach step $steps {
        set enabled [expr {$step ne "post_route_phys_opt_design" || ([dict exists $properties $run \
            STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED] && [dict get $properties $run \
            STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED])}]
        if {$enabled && $step ni $done} {
            lappend done $step
            if {$step ne "write_device_image"} { lappend changed $step }
        }
        if {$step eq $target} { break }
    }
    set statuses($run) "$target Complete!"
    if {$target eq "post_route_phys_opt_design"} {
        set statuses($run) "phys_opt_design (Post-Route) Complete!"
    }
    if {$target ne "write_device_image"} { return }
    if {[llength $changed]} { error "$changed changed the design after it was judged" }
    foreach name $stub(images) { close [open [file join $stub(runs) $name] w] }
}
