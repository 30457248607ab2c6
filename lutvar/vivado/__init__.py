# SPDX-License-Identifier: Apache-2.0
"""From exported Verilog to a VCK190: what `lutvar vivado` writes, and the scripts that it copies.

Read `project` first: it puts a folder together from the parts that the other modules describe
(`board`: what is known of the card; `traffic` and `qos`: bandwidth; `wrapper`: the module that a
block design instantiates; `device_tree`; `params`: what the Tcl scripts are told; `ipxact` and
`kernel`: the same accelerator as an IP and as a Vitis kernel). The Tcl lies in `tcl`.

Nothing here has run in Vivado; see constraints/README.md.
"""
