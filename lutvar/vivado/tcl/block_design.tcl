# SPDX-License-Identifier: Apache-2.0
# The block design of the VCK190, one procedure for each part of it. system.tcl sources this file
# after params.tcl, which fills the array `lutvar`.
#
#     A72, PMC --> noc_ddr4 (DDR4 DIMM) ==links==> noc_lpddr4 (two LPDDR4 controllers, interleaved)
#     m_axi_*  -->    "
#     M_AXI_FPD --> smartconnect --> s_axi_control;  interrupt --> pl_ps_irq0;  PL0 --> every clock

proc add_processing_system {mhz} {
    create_bd_cell -type ip -vlnv xilinx.com:ip:versal_cips cips
    apply_board_connection -board_interface ps_pmc_fixed_io -ip_intf cips/FIXED_IO \
        -diagram [current_bd_design]
    set irq {}
    for {set i 0} {$i < 16} {incr i} { lappend irq [list CH$i [expr {$i == 0}]] }
    set config [dict create \
        CLOCK_MODE Custom DDR_MEMORY_MODE Custom PS_PL_CONNECTIVITY_MODE Custom \
        PMC_CRP_PL0_REF_CTRL_FREQMHZ $mhz PS_USE_PMCPL_CLK0 1 PS_NUM_FABRIC_RESETS 1 \
        PMC_USE_PMC_NOC_AXI0 1 PS_USE_FPD_CCI_NOC 1 PS_USE_NOC_LPD_AXI0 1 \
        PS_USE_M_AXI_FPD 1 PS_TTC0_PERIPHERAL_ENABLE 1 PS_IRQ_USAGE $irq]
    # Linux talks to the firmware through these.
    for {set i 0} {$i < 7} {incr i} {
        dict set config PS_GEN_IPI${i}_ENABLE 1
        dict set config PS_GEN_IPI${i}_MASTER A72
    }
    set_property -dict [list CONFIG.CLOCK_MODE Custom CONFIG.DDR_MEMORY_MODE Custom \
        CONFIG.PS_PL_CONNECTIVITY_MODE Custom CONFIG.PS_PMC_CONFIG $config] [get_bd_cells cips]
}

# DDR4 controller, and the way in for everything: six ports of the processing system, then the
# accelerator's. One link to the LPDDR4 controllers for the processing system and one for each
# memory port, so that each path keeps its own bandwidth.
proc add_memories {} {
    global lutvar
    set links [expr {[llength $lutvar(masters)] + 1}]
    set inputs [expr {[llength $lutvar(ps_ports)] + [llength $lutvar(masters)]}]

    create_bd_cell -type ip -vlnv xilinx.com:ip:axi_noc noc_ddr4
    board_pins noc_ddr4 {CH0_DDR4_0 ddr4_dimm1 sys_clk0 ddr4_dimm1_sma_clk}
    set_property -dict [list CONFIG.NUM_SI $inputs CONFIG.NUM_MI 0 CONFIG.NUM_NMI $links \
        CONFIG.NUM_NSI 0 CONFIG.NUM_CLKS [expr {[llength $lutvar(ps_ports)] + 1}] CONFIG.NUM_MCP 4 \
        CONFIG.MC_CHAN_REGION1 DDR_LOW1] [get_bd_cells noc_ddr4]

    create_bd_cell -type ip -vlnv xilinx.com:ip:axi_noc noc_lpddr4
    board_pins noc_lpddr4 {
        CH0_LPDDR4_0 ch0_lpddr4_c0 CH1_LPDDR4_0 ch1_lpddr4_c0 sys_clk0 lpddr4_sma_clk1
        CH0_LPDDR4_1 ch0_lpddr4_c1 CH1_LPDDR4_1 ch1_lpddr4_c1 sys_clk1 lpddr4_sma_clk2
    }
    set_property -dict [list CONFIG.NUM_SI 0 CONFIG.NUM_MI 0 CONFIG.NUM_NMI 0 \
        CONFIG.NUM_NSI $links CONFIG.NUM_CLKS 0 CONFIG.NUM_MCP 4 \
        CONFIG.MC_CHAN_REGION0 DDR_CH1] [get_bd_cells noc_lpddr4]
    if {[get_property CONFIG.NUM_MC [get_bd_cells noc_lpddr4]] != 2} {
        fail "noc_lpddr4 has not both LPDDR4 controllers; does this Vivado have the board's files?"
    }
    interleave noc_lpddr4
    for {set i 0} {$i < $links} {incr i} {
        connect_bd_intf_net [get_bd_intf_pins noc_ddr4/[index M $i INI]] \
            [get_bd_intf_pins noc_lpddr4/[index S $i INI]]
    }
}

# Spreads a range over both controllers and both channels of each, or a buffer at its start would
# live in half of the memory's width. Channels take turns by the accelerator's least burst;
# controllers by 4 KiB, which is the stripe of the processing system's interconnect (CCI-500), and
# the two have to agree (PG313, "Memory Controller Interleaving"). Refreshing bank by bank leaves
# the others open.
proc interleave {cell} {
    set wanted {
        CONFIG.MC_CHANNEL_INTERLEAVING true CONFIG.MC_CH_INTERLEAVING_SIZE 256_Bytes
        CONFIG.MC_INTERLEAVE_SIZE 4096 CONFIG.MC_LPDDR4_REFRESH_TYPE PER_BANK
        CONFIG.MC_TRC 60000
    }
    set_property -dict $wanted [get_bd_cells $cell]
    # An IP may quietly keep another value than it is given.
    foreach {name value} $wanted {
        set found [get_property $name [get_bd_cells $cell]]
        if {![string equal -nocase $found $value]} {
            fail "$cell has $name '$found' instead of $value; half of the bandwidth may hang on it"
        }
    }
}

proc index {kind number end} { return [format %s%02d_%s $kind $number $end] }

proc board_pins {cell pairs} {
    foreach {pin interface} $pairs {
        apply_board_connection -board_interface $interface -ip_intf $cell/$pin \
            -diagram [current_bd_design]
    }
}

# What a path is promised, MB/s. With a segmented configuration the paths from the processing system
# to the memories are part of the image that boots.
proc bandwidth {read write {boots 0}} {
    global lutvar
    set share [list read_bw $read write_bw $write read_avg_burst 4 write_avg_burst 4]
    if {$boots && $lutvar(segmented)} { lappend share initial_boot true }
    return $share
}

# A link has one load and may have several drivers: INI_STRATEGY load, by which the driver's side
# owns the path and what it is promised (UG909: "Single load, Driver owns the path"). The load's
# side says the same all the same, so that it does not matter who is asked.
proc end_link {number channel share} {
    set_property CONFIG.INI_STRATEGY load [get_bd_intf_pins noc_ddr4/[index M $number INI]]
    set_property -dict [list CONFIG.INI_STRATEGY load \
        CONFIG.CONNECTIONS [list MC_$channel $share]] \
        [get_bd_intf_pins noc_lpddr4/[index S $number INI]]
}

proc add_processing_system_paths {} {
    global lutvar
    set number 0
    set most 0
    foreach port $lutvar(ps_ports) {
        lassign $port interface clock category mbps
        set in [index S $number AXI]
        set share [bandwidth $mbps $mbps 1]
        set_property -dict [list CONFIG.DATA_WIDTH 128 CONFIG.CATEGORY $category \
            CONFIG.CONNECTIONS [list MC_[expr {$number % 4}] $share M00_INI $share]] \
            [get_bd_intf_pins noc_ddr4/$in]
        set_property CONFIG.ASSOCIATED_BUSIF $in [get_bd_pins noc_ddr4/aclk$number]
        connect_bd_intf_net [get_bd_intf_pins cips/$interface] [get_bd_intf_pins noc_ddr4/$in]
        connect_bd_net [get_bd_pins cips/$clock] [get_bd_pins noc_ddr4/aclk$number]
        incr number
        set most [expr {max($most, $mbps)}]
    }
    end_link 0 0 [bandwidth $most $most 1]
}

proc add_accelerator {} {
    global lutvar
    create_bd_cell -type module -reference $lutvar(wrapper) accelerator
    foreach name [concat $lutvar(control) [lmap port $lutvar(masters) {string cat m_axi_ $port}]] {
        if {[llength [get_bd_intf_pins -quiet accelerator/$name]] == 0} {
            fail "Vivado sees no interface $name on $lutvar(wrapper)"
        }
    }
    set number [llength $lutvar(ps_ports)]
    set link 1
    set buses {}
    foreach port $lutvar(masters) {
        set in [index S $number AXI]
        lappend buses $in
        connect_bd_intf_net [get_bd_intf_pins accelerator/m_axi_$port] \
            [get_bd_intf_pins noc_ddr4/$in]
        set connections {}
        foreach path $lutvar(paths) {
            lassign $path name memory channel read write
            if {$name ne $port} { continue }
            if {$memory eq "ddr4"} {
                lappend connections MC_$channel [bandwidth $read $write]
            } else {
                lappend connections [index M $link INI] [bandwidth $read $write]
                end_link $link $channel [bandwidth $read $write]
            }
        }
        set_property -dict [list CONFIG.DATA_WIDTH 512 CONFIG.CATEGORY pl \
            CONFIG.CONNECTIONS $connections] [get_bd_intf_pins noc_ddr4/$in]
        incr number
        incr link
    }
    set_property CONFIG.ASSOCIATED_BUSIF [join $buses :] \
        [get_bd_pins noc_ddr4/aclk[llength $lutvar(ps_ports)]]
}

# Registers, interrupt, and the one clock with its reset.
proc add_control {} {
    global lutvar
    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 1} [get_bd_cells control]
    connect_bd_intf_net [get_bd_intf_pins cips/M_AXI_FPD] [get_bd_intf_pins control/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins control/M00_AXI] \
        [get_bd_intf_pins accelerator/$lutvar(control)]
    connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins cips/pl_ps_irq0]

    create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
    set clock [get_bd_pins cips/pl0_ref_clk]
    foreach pin [list accelerator/ap_clk control/aclk reset/slowest_sync_clk \
            cips/m_axi_fpd_aclk noc_ddr4/aclk[llength $lutvar(ps_ports)]] {
        connect_bd_net $clock [get_bd_pins $pin]
    }
    connect_bd_net [get_bd_pins cips/pl0_resetn] [get_bd_pins reset/ext_reset_in]
    foreach pin {accelerator/ap_rst_n control/aresetn} {
        connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $pin]
    }
    # PL0 is not exactly what was asked for, and a module reference does not follow by itself.
    set hertz [clock_hertz]
    if {$hertz eq "" || $hertz > 1.01e6 * $lutvar(mhz) || $hertz < 0.9e6 * $lutvar(mhz)} {
        fail "PL0 runs at '$hertz' Hz instead of $lutvar(mhz) MHz; ask for another frequency"
    }
    set_property CONFIG.FREQ_HZ $hertz [get_bd_pins accelerator/ap_clk]
    return $hertz
}

# Frequency of PL0 in Hz, or "". The pin may not have it before the design is validated; the
# processing system's configuration has what its dividers make of the wish.
proc clock_hertz {} {
    set hertz [get_property CONFIG.FREQ_HZ [get_bd_pins cips/pl0_ref_clk]]
    if {[string is double -strict $hertz]} { return $hertz }
    foreach {key value} [get_property CONFIG.PS_PMC_CONFIG [get_bd_cells cips]] {
        if {$key eq "PMC_CRP_PL0_REF_CTRL_ACT_FREQMHZ" && [string is double -strict $value]} {
            return [expr {round($value * 1e6)}]
        }
    }
    return ""
}

# A number of bytes as Vivado writes it: 0x80000000, 2147483648 or 2G.
proc bytes {text} {
    if {[regexp {^(\d+)([KMGT])$} $text -> number unit]} {
        return [expr {$number << 10 * ([string first $unit KMGT] + 1)}]
    }
    return [expr {$text + 0}]
}

# The controllers' regions fix the memories' addresses; only the registers are placed here. The
# accelerator keeps the windows of its buffers alone: whatever a program asks for, the memory in
# which Linux lives has no address on these ports. The LIMIT registers are the first wall, this is
# the second.
proc add_addresses {} {
    global lutvar
    assign_bd_address -offset $lutvar(control_base) -range $lutvar(control_range) \
        -target_address_space [get_bd_addr_spaces cips/M_AXI_FPD] \
        [get_bd_addr_segs accelerator/$lutvar(control)/reg0] -force
    assign_bd_address
    set reach {}
    foreach window $lutvar(reach) {
        lassign $window memory base size
        lappend reach [list [bytes $base] [bytes $size]]
    }
    foreach port $lutvar(masters) {
        set space [get_bd_addr_spaces accelerator/m_axi_$port]
        set seen {}
        foreach segment [get_bd_addr_segs -of_objects $space] {
            lappend seen [list [bytes [get_property OFFSET $segment]] \
                [bytes [get_property RANGE $segment]]]
        }
        foreach window $lutvar(windows) {
            lassign $window memory base size
            if {[list [bytes $base] [bytes $size]] ni $seen} {
                fail "m_axi_$port does not see $memory at $base; it sees: $seen"
            }
        }
        foreach segment [get_bd_addr_segs -of_objects $space] {
            set place [list [bytes [get_property OFFSET $segment]] \
                [bytes [get_property RANGE $segment]]]
            if {$place ni $reach} { exclude_bd_addr_seg $segment }
        }
        set left [llength [get_bd_addr_segs -of_objects $space]]
        if {$left != [llength $reach]} {
            fail "m_axi_$port has $left address segments after the others were excluded, not\
                [llength $reach]; see exclude_bd_addr_seg in UG835"
        }
    }
}

# The NoC compiler does not fail when it cannot keep what was asked for: it relaxes the wishes and
# says so in a critical warning (UG1388, "Addressing Suboptimal Solutions").
set relaxed {Ipconfig 75-4216}
proc check_noc {when} {
    global relaxed
    set count [get_msg_config -id $relaxed -count]
    if {[string is integer -strict $count] && $count > 0} {
        fail "the NoC cannot give the bandwidths of params.tcl ($relaxed, $when);\
            take a lower --mhz or another --memory"
    }
}

# The whole design. Returns the clock's frequency in Hz.
proc build_block_design {name} {
    global lutvar
    create_bd_design $name
    add_processing_system $lutvar(mhz)
    add_memories
    add_processing_system_paths
    add_accelerator
    set hertz [add_control]
    add_addresses
    validate_bd_design
    check_noc "validate_bd_design"
    # The processing system's configuration rounds to six digits, the pin does not.
    set known [clock_hertz]
    if {$known eq "" || abs($known - $hertz) > 1e-5 * $hertz} {
        fail "PL0 was taken for $hertz Hz and runs at '$known' Hz after validation"
    }
    save_bd_design
    return $known
}
