# SPDX-License-Identifier: Apache-2.0
# What a system build leaves in its results folder beside the reports, and the evidence for it.

# What the NoC compiler promises. report_noc_qos came with Vivado 2025.1; the solution file and the
# rule check are older, and the run's log is in every release.
proc report_noc {dir log} {
    global relaxed
    if {[llength [info commands report_noc_qos]]} {
        report_noc_qos -file [file join $dir noc_qos.rpt]
    }
    if {[llength [info commands write_noc_solution]]} {
        write_noc_solution -file [file join $dir noc.ncr] -force
    }
    if {[llength [info commands validate_noc]] && [catch validate_noc message]} {
        # Rules of structure and addresses; what they weigh is for a person to say.
        note "validate_noc: $message"
    }
    check_noc "open_run impl_1"
    if {![file readable $log]} { fail "$log cannot be read; it would tell of relaxed bandwidths" }
    set in [open $log]
    set text [read $in]
    close $in
    if {[string first "\[$relaxed\]" $text] >= 0} {
        fail "the NoC cannot give the bandwidths of params.tcl ($relaxed in $log);\
            take a lower --mhz or another --memory"
    }
}

proc write_address_map {file} { assign_bd_address -export_to_file $file }

# Copies the device images; returns their names. A segmented build has one to boot and one for the
# fabric, any other has one of everything.
proc collect_images {from results segmented} {
    set wanted [expr {$segmented ? {*_boot.pdi lutvar_boot.pdi *_pld.pdi lutvar_pld.pdi}
        : {*.pdi lutvar.pdi}}]
    set names {}
    foreach {pattern name} $wanted {
        set found [glob -nocomplain -directory $from $pattern]
        if {[llength $found] != 1} { fail "one device image $pattern was expected, found: $found" }
        file copy -force [lindex $found 0] [file join $results $name]
        lappend names $name
    }
    return $names
}

# Copies the hardware handoff, from which PYNQ reads addresses; returns its name, if there is one.
proc collect_handoff {project design results} {
    set found {}
    foreach folder {gen srcs} {
        lappend found {*}[glob -nocomplain -directory [file join $project lutvar.$folder \
            sources_1 bd $design hw_handoff] *.hwh]
    }
    if {[llength $found] == 0} {
        note "no hardware handoff (.hwh) was found; PYNQ needs it, and the XSA holds one"
        return {}
    }
    file copy -force [lindex $found 0] [file join $results lutvar.hwh]
    return lutvar.hwh
}

# The device tree fragment with the frequency that PL0 has instead of the one asked for.
proc write_device_tree {from to hertz} {
    set in [open $from]
    set text [read $in]
    close $in
    set out [open $to w]
    puts -nonewline $out \
        [regsub {clock-frequency = <\d+>} $text "clock-frequency = <[expr {round($hertz)}]>"]
    close $out
}

proc sha256 {file} {
    foreach command {{sha256sum --} {shasum -a 256 --} {openssl dgst -sha256 -r}} {
        if {![catch {exec {*}$command $file} answer]
                && [regexp {^\\?([0-9a-f]{64})\y} $answer -> digest]} {
            return $digest
        }
    }
    fail "no SHA-256 of $file; sha256sum, shasum or openssl is needed on the path"
}

# summary.txt for people, manifest.json for programs: the same facts, and the files' SHA-256.
proc write_summary {results facts files} {
    set out [open [file join $results summary.txt] w]
    foreach {key value} $facts { puts $out "$key: $value" }
    set rows {}
    foreach {key value} $facts { lappend rows "  [json $key]: [json $value]" }
    set sums {}
    foreach name $files {
        set file [file join $results $name]
        if {![file exists $file]} { continue }
        set digest [sha256 $file]
        puts $out "sha256 $name: $digest"
        lappend sums "    [json $name]: [json $digest]"
    }
    close $out
    lappend rows "  \"files\": {\n[join $sums ",\n"]\n  }"
    # Last, so that its presence means that everything else is there.
    set out [open [file join $results manifest.json] w]
    puts $out "{\n[join $rows ",\n"]\n}"
    close $out
}

proc json {text} { return "\"[string map {\\ \\\\ \" \\\"} $text]\"" }
