# SPDX-License-Identifier: Apache-2.0
# The block design of the VCK190, one procedure for each part of it. system.tcl sources this file
# after params.tcl, which fills the array `lutvar`.
#
#     A72, PMC --> noc_ddr4 (DDR4 DIMM) ==links==> noc_lpddr4 (two LPDDR4 controllers, interleaved)
#     m_axi_*  -->    "
#     M_AXI_FPD --> smartconnect --> s_axi_control;  interrupt --> pl_ps_irq0;  PL0 --> every clock

# Connections of the processing system to the network: {interface clock category}.
set ps_ports {
    {FPD_CCI_NOC_0 fpd_cci_noc_axi0_clk ps_cci}
    {FPD_CCI_NOC_1 fpd_cci_noc_axi1_clk ps_cci}
    {FPD_CCI_NOC_2 fpd_cci_noc_axi2_clk ps_cci}
    {FPD_CCI_NOC_3 fpd_cci_noc_axi3_clk ps_cci}
    {LPD_AXI_NOC_0 lpd_axi_noc_clk ps_rpu}
    {PMC_NOC_AXI_0 pmc_axi_noc_axi0_clk ps_pmc}
}
# MB/s in each direction for each of them: host transfers, not the accelerator's rate.
set ps_mbps 500

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
    global lutvar ps_ports
    set links [expr {[llength $lutvar(masters)] + 1}]
    set inputs [expr {[llength $ps_ports] + [llength $lutvar(masters)]}]

    create_bd_cell -type ip -vlnv xilinx.com:ip:axi_noc noc_ddr4
    board_pins noc_ddr4 {CH0_DDR4_0 ddr4_dimm1 sys_clk0 ddr4_dimm1_sma_clk}
    set_property -dict [list CONFIG.NUM_SI $inputs CONFIG.NUM_MI 0 CONFIG.NUM_NMI $links \
        CONFIG.NUM_NSI 0 CONFIG.NUM_CLKS [expr {[llength $ps_ports] + 1}] CONFIG.NUM_MCP 4 \
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
    for {set i 0} {$i < $links} {incr i} {
        connect_bd_intf_net [get_bd_intf_pins noc_ddr4/[index M $i INI]] \
            [get_bd_intf_pins noc_lpddr4/[index S $i INI]]
    }
}

proc index {kind number end} { return [format %s%02d_%s $kind $number $end] }

proc board_pins {cell pairs} {
    foreach {pin interface} $pairs {
        apply_board_connection -board_interface $interface -ip_intf $cell/$pin \
            -diagram [current_bd_design]
    }
}

proc bandwidth {read write} {
    return [list read_bw $read write_bw $write read_avg_burst 4 write_avg_burst 4]
}

proc add_processing_system_paths {} {
    global ps_ports ps_mbps
    set number 0
    foreach port $ps_ports {
        lassign $port interface clock category
        set in [index S $number AXI]
        set share [bandwidth $ps_mbps $ps_mbps]
        set_property -dict [list CONFIG.DATA_WIDTH 128 CONFIG.CATEGORY $category \
            CONFIG.CONNECTIONS [list MC_[expr {$number % 4}] $share M00_INI $share]] \
            [get_bd_intf_pins noc_ddr4/$in]
        set_property CONFIG.ASSOCIATED_BUSIF $in [get_bd_pins noc_ddr4/aclk$number]
        connect_bd_intf_net [get_bd_intf_pins cips/$interface] [get_bd_intf_pins noc_ddr4/$in]
        connect_bd_net [get_bd_pins cips/$clock] [get_bd_pins noc_ddr4/aclk$number]
        incr number
    }
    set_property -dict [list CONFIG.INI_STRATEGY load \
        CONFIG.CONNECTIONS [list MC_0 [bandwidth $ps_mbps $ps_mbps]]] \
        [get_bd_intf_pins noc_lpddr4/S00_INI]
}

proc add_accelerator {} {
    global lutvar ps_ports
    create_bd_cell -type module -reference $lutvar(wrapper) accelerator
    foreach name [concat $lutvar(control) [lmap port $lutvar(masters) {string cat m_axi_ $port}]] {
        if {[llength [get_bd_intf_pins -quiet accelerator/$name]] == 0} {
            fail "Vivado sees no interface $name on $lutvar(wrapper)"
        }
    }
    set number [llength $ps_ports]
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
                set_property -dict [list CONFIG.INI_STRATEGY load \
                    CONFIG.CONNECTIONS [list MC_$channel [bandwidth $read $write]]] \
                    [get_bd_intf_pins noc_lpddr4/[index S $link INI]]
            }
        }
        set_property -dict [list CONFIG.DATA_WIDTH 512 CONFIG.CATEGORY pl \
            CONFIG.CONNECTIONS $connections] [get_bd_intf_pins noc_ddr4/$in]
        incr number
        incr link
    }
    set_property CONFIG.ASSOCIATED_BUSIF [join $buses :] \
        [get_bd_pins noc_ddr4/aclk[llength $ps_ports]]
}

# Registers, interrupt, and the one clock with its reset.
proc add_control {} {
    global lutvar ps_ports
    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 1} [get_bd_cells control]
    connect_bd_intf_net [get_bd_intf_pins cips/M_AXI_FPD] [get_bd_intf_pins control/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins control/M00_AXI] \
        [get_bd_intf_pins accelerator/$lutvar(control)]
    connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins cips/pl_ps_irq0]

    create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
    set clock [get_bd_pins cips/pl0_ref_clk]
    foreach pin [list accelerator/ap_clk control/aclk reset/slowest_sync_clk \
            cips/m_axi_fpd_aclk noc_ddr4/aclk[llength $ps_ports]] {
        connect_bd_net $clock [get_bd_pins $pin]
    }
    connect_bd_net [get_bd_pins cips/pl0_resetn] [get_bd_pins reset/ext_reset_in]
    foreach pin {accelerator/ap_rst_n control/aresetn} {
        connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $pin]
    }
    # PL0 is not exactly what was asked for, and a module reference does not follow by itself.
    set hertz [get_property CONFIG.FREQ_HZ $clock]
    if {![string is double -strict $hertz] || $hertz > 1.01e6 * $lutvar(mhz) \
            || $hertz < 0.9e6 * $lutvar(mhz)} {
        fail "PL0 runs at '$hertz' Hz instead of $lutvar(mhz) MHz; ask for another frequency"
    }
    set_property CONFIG.FREQ_HZ $hertz [get_bd_pins accelerator/ap_clk]
    return $hertz
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
    save_bd_design
    return $hertz
}
