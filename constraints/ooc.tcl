# SPDX-License-Identifier: Apache-2.0
# The old place of this script; it lives in the package, and `lutvar vivado` copies it beside a build.
source [file join [file dirname [file normalize [info script]]] .. lutvar vivado tcl ooc.tcl]
