# SPDX-License-Identifier: Apache-2.0
# Packages the IP that `lutvar vivado --kernel` wrote as a Vitis kernel, NAME.xo:
#
#     vivado -mode batch -source tcl/kernel.tcl -tclargs ip kernel/kernel.xml build/NAME.xo
#
# Arguments: folder of the IP, kernel.xml, file to write. Exits with 1 when Vivado finds the IP not
# fit for a kernel, with 2 for bad arguments.

source [file join [file dirname [file normalize [info script]]] common.tcl]

if {[llength $argv] != 3} { fail "usage: -tclargs IP_DIR KERNEL_XML XO_FILE" 2 }
lassign $argv ip xml xo
foreach file [list [file join $ip component.xml] $xml] {
    if {![file exists $file]} { fail "$file does not exist; run lutvar vivado --kernel again" 2 }
}
set in [open $xml]
set text [read $in]
close $in
if {![regexp {<kernel name="(\w+)"} $text -> name]} {
    fail "$xml names no kernel; run lutvar vivado --kernel again" 2
}
file mkdir [file dirname $xo]

# Changed in a copy: the IP's hashes stay true.
set work [file join [file dirname $xo] ${name}_kernel]
file delete -force $work
file copy -force $ip $work
set core [ipx::open_core [file join $work component.xml]]
set_property sdx_kernel true $core
set_property sdx_kernel_type rtl $core
set_property vitis_drc {ctrl_protocol user_managed} $core
# The platform decides about the clock.
set_property ipi_drc {ignore_freq_hz true} $core
ipx::create_xgui_files $core
ipx::update_checksums $core
if {[catch {ipx::check_integrity -kernel $core} message]} {
    fail "Vivado does not take the IP for a kernel: $message"
}
ipx::save_core $core
package_xo -force -xo_path $xo -kernel_name $name -ctrl_protocol user_managed \
    -ip_directory $work -kernel_xml $xml
if {![file exists $xo]} { fail "package_xo wrote no $xo" }
puts "lutvar: kernel $name in $xo"
